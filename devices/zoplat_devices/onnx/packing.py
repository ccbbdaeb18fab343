"""Frozen matrices of a graph as 8-bit integers, 32 of a row to a scale; what they are multiplied with stays float32.

Rounding that as well, as ONNX Runtime's dynamic quantisation does, is faster and drowns the difference of two losses
in noise (docs/decisions/0017). A table of words that is the head too is packed once and read in both places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir

BLOCK = 32  # entries of a row that share a scale
LARGE = 1 << 10  # entries of a matrix that is worth packing
ZERO = 128  # what stands for 0, as `MatMulNBits` has it
FLOAT = 1  # accuracy_level of `MatMulNBits` that computes in float32


def packed(matrix: Any) -> tuple[Any, Any]:
    """uint8 (rows, blocks, BLOCK), the last block filled up, and scales (rows, blocks)."""
    rows, columns = matrix.shape
    filled = np.pad(matrix, ((0, 0), (0, -columns % BLOCK))).reshape(rows, -1, BLOCK)
    scales = np.abs(filled).max(axis=2) / (ZERO - 1)
    steps = np.where(scales, scales, 1)[:, :, None]
    return (np.rint(filled / steps) + ZERO).astype(np.uint8), scales.astype(np.float32)


def pack(model: Any) -> None:
    """Have a model of onnx_ir look up and multiply packed matrices in the place of float ones."""
    model.graph.opset_imports["com.microsoft"] = 1
    packing = _Packing(model.graph)
    for node in list(model.graph):
        made = list(packing.instead_of(node))
        if made:
            [old], [new] = node.outputs, made[-1].outputs
            new.shape, new.type = old.shape, old.type
            model.graph.insert_before(node, made)
            onnx_ir.convenience.replace_all_uses_with(old, new)
            model.graph.remove(node, safe=True)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


class _Packing:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.kept: dict[tuple[str, bool], tuple[Any, Any]] = {}

    def instead_of(self, node: Any) -> Iterator[Any]:
        """The nodes that do the same with packed weights; none where there is nothing to pack."""
        if node.op_type == "Gather" and _is_large(node.inputs[0]) and not node.attributes.get_int("axis", 0):
            yield from self._looked_up(*node.inputs)
        elif node.op_type == "MatMul" and _is_large(node.inputs[1]):
            yield self._product(node, turned=True)
        elif node.op_type == "Gemm" and _is_large(node.inputs[1]) and _is_plain(node):
            yield (product := self._product(node, turned=not node.attributes.get_int("transB", 0)))
            if len(node.inputs) > 2:
                yield onnx_ir.node("Add", [product.outputs[0], node.inputs[2]])

    def _product(self, node: Any, turned: bool) -> Any:
        x, weight = node.inputs[:2]
        whole, scales = self._table(weight, turned)
        inner, outer = weight.shape if turned else reversed(weight.shape)
        sizes = {"K": inner, "N": outer, "bits": 8, "block_size": BLOCK, "accuracy_level": FLOAT}
        return onnx_ir.node("MatMulNBits", [x, whole, scales], sizes, domain="com.microsoft")

    def _looked_up(self, weight: Any, ids: Any) -> Iterator[Any]:
        """(integers − ZERO) · scales of the rows, without what filled them up."""
        whole, scales = self._table(weight, turned=False)
        yield (rows := onnx_ir.node("Gather", [whole, ids]))
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

    def _table(self, weight: Any, turned: bool) -> tuple[Any, Any]:
        """A weight as integers and scales, of its columns where it is turned."""
        key = (weight.name, turned)
        if key not in self.kept:
            matrix = weight.const_value.numpy()
            whole, scales = packed(matrix.T if turned else matrix)
            side = "columns" if turned else "rows"
            name = f"{weight.name}.{side}"
            self.kept[key] = self._constant(name, whole), self._constant(f"{name}.scales", scales)
        return self.kept[key]

    def _constant(self, name: str, array: Any) -> Any:
        name = f"packed.{name}"
        if name not in self.graph.initializers:
            value = onnx_ir.tensor(np.asarray(array), name=name)
            self.graph.initializers[name] = onnx_ir.Value(
                name=name, const_value=value, shape=value.shape, type=onnx_ir.TensorType(value.dtype)
            )
        return self.graph.initializers[name]


def _is_large(value: Any) -> bool:
    """Whether a value of a graph is a frozen matrix that is worth packing."""
    held = None if value is None else value.const_value
    return held is not None and held.dtype == onnx_ir.DataType.FLOAT and len(held.shape) == 2 and held.size >= LARGE


def _is_plain(gemm: Any) -> bool:
    """Whether a Gemm only multiplies and adds."""
    factors = [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not gemm.attributes.get_int("transA", 0)
