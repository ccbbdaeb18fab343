"""Quantise frozen matrices of a graph to 8 bits, with a scale for every 32 entries of a row; inputs stay float32.

Quantising the inputs too, as ONNX Runtime's dynamic quantisation does, is faster, but its rounding errors swamp the
difference of two losses (docs/decisions/0017). Products that round their inputs in blocks of 32 are in between; a
second graph has them. An embedding that is also the head is quantised once and used by both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

BLOCK = 32  # entries of a row that share a scale
LARGE = 1 << 10  # entries from which a matrix is quantised
ZERO = 128  # zero point of `MatMulNBits`
FLOAT, INTEGER = 1, 4  # accuracy_level of `MatMulNBits`: inputs as float32, or rounded to 8 bits in blocks


def quantised(matrix: Any) -> tuple[Any, Any]:
    """uint8 (rows, blocks, BLOCK), the last block padded with zeros, and scales (rows, blocks)."""
    rows, columns = matrix.shape
    padded = np.pad(matrix, ((0, 0), (0, -columns % BLOCK))).reshape(rows, -1, BLOCK)
    scales = np.abs(padded).max(axis=2) / (ZERO - 1)
    steps = np.where(scales, scales, 1)[:, :, None]
    return (np.rint(padded / steps) + ZERO).astype(np.uint8), scales.astype(np.float32)


def quantise(model: Any) -> None:
    """Replace the large frozen matrices of an onnx_ir model by quantised ones, and the nodes that read them."""
    model.graph.opset_imports["com.microsoft"] = 1
    quantiser = _Quantiser(model.graph)
    for node in list(model.graph):
        made = list(quantiser.replacement(node))
        if made:
            [old], [new] = node.outputs, made[-1].outputs
            new.shape, new.type = old.shape, old.type
            model.graph.insert_before(node, made)
            onnx_ir.convenience.replace_all_uses_with(old, new)
            model.graph.remove(node, safe=True)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


def write_rounding(graph: Path, target: Path) -> None:
    """Write a quantised graph again, with products that round their inputs; both read the same file of weights."""
    model = onnx_ir.load(graph)
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = onnx_ir.AttrInt64("accuracy_level", INTEGER)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        onnx_ir.save(model, Path(folder, target.name))
        Path(folder, target.name).rename(target)


class _Quantiser:
    """Quantised matrices of a graph, each stored once."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.tables: dict[tuple[str, bool], tuple[Any, Any]] = {}

    def replacement(self, node: Any) -> Iterator[Any]:
        """Nodes that do the same with quantised weights, the result last; none where there is nothing to quantise."""
        if node.op_type == "Gather" and _is_large(node.inputs[0]) and not node.attributes.get_int("axis", 0):
            yield from self._lookup(*node.inputs)
        elif node.op_type == "MatMul" and _is_large(node.inputs[1]):
            yield self._product(node, is_transposed=True)
        elif node.op_type == "Gemm" and _is_large(node.inputs[1]) and _is_plain(node):
            yield (product := self._product(node, is_transposed=not node.attributes.get_int("transB", 0)))
            if len(node.inputs) > 2:
                yield onnx_ir.node("Add", [product.outputs[0], node.inputs[2]])

    def _product(self, node: Any, is_transposed: bool) -> Any:
        x, weight = node.inputs[:2]
        integers, scales = self._table(weight, is_transposed)
        inner, outer = weight.shape if is_transposed else reversed(weight.shape)
        sizes = {"K": inner, "N": outer, "bits": 8, "block_size": BLOCK, "accuracy_level": FLOAT}
        return onnx_ir.node("MatMulNBits", [x, integers, scales], sizes, domain="com.microsoft")

    def _lookup(self, weight: Any, ids: Any) -> Iterator[Any]:
        """The rows of some ids as float32: (integers − ZERO) · scales, without the padding."""
        integers, scales = self._table(weight, is_transposed=False)
        yield (rows := onnx_ir.node("Gather", [integers, ids]))
        yield (steps := onnx_ir.node("Gather", [scales, ids]))
        yield (real := onnx_ir.node("Cast", [rows.outputs[0]], {"to": onnx_ir.DataType.FLOAT}))
        yield (centred := onnx_ir.node("Sub", [real.outputs[0], self._constant("zero", np.float32(ZERO))]))
        yield (wide := onnx_ir.node("Unsqueeze", [steps.outputs[0], self._constant("last", np.array([-1]))]))
        yield (scaled := onnx_ir.node("Mul", [centred.outputs[0], wide.outputs[0]]))
        shape = np.array([0] * len(ids.shape) + [-1])
        yield (joined := onnx_ir.node("Reshape", [scaled.outputs[0], self._constant(f"rows_{len(shape)}", shape)]))
        if weight.shape[1] % BLOCK:
            first, stop, last = np.array([0]), np.array([weight.shape[1]]), np.array([-1])
            ends = [self._constant("first", first), self._constant(f"stop_{stop[0]}", stop)]
            yield onnx_ir.node("Slice", [joined.outputs[0], *ends, self._constant("last", last)])

    def _table(self, weight: Any, is_transposed: bool) -> tuple[Any, Any]:
        """(integers, scales) of a weight, or of its transpose."""
        key = (weight.name, is_transposed)
        if key not in self.tables:
            matrix = weight.const_value.numpy()
            integers, scales = quantised(matrix.T if is_transposed else matrix)
            side = "columns" if is_transposed else "rows"
            name = f"{weight.name}.{side}"
            self.tables[key] = self._constant(name, integers), self._constant(f"{name}.scales", scales)
        return self.tables[key]

    def _constant(self, name: str, array: Any) -> Any:
        name = f"packed.{name}"
        if name not in self.graph.initializers:
            value = onnx_ir.tensor(np.asarray(array), name=name)
            self.graph.initializers[name] = onnx_ir.Value(
                name=name, const_value=value, shape=value.shape, type=onnx_ir.TensorType(value.dtype)
            )
        return self.graph.initializers[name]


def _is_large(value: Any) -> bool:
    """Whether a value of a graph is a frozen float32 matrix of at least `LARGE` entries."""
    held = None if value is None else value.const_value
    return held is not None and held.dtype == onnx_ir.DataType.FLOAT and len(held.shape) == 2 and held.size >= LARGE


def _is_plain(gemm: Any) -> bool:
    """Whether a Gemm neither scales nor transposes its input."""
    factors = [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not gemm.attributes.get_int("transA", 0)
