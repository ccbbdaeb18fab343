"""Cut the products with the largest quantised matrices of a graph into pieces, so that they take less memory.

Where the processor has no product of float32 and 8-bit weights, ONNX Runtime turns the whole matrix into float32 first:
108 MiB for a head of 49,152 words by 576. Of a product in pieces it is one piece at a time. A piece is a slice that is
taken when it is needed, of the matrix that stays in its mapped file; `Graph` keeps ONNX Runtime from taking it before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir

PIECE = 1 << 20
"""Most entries of a piece, as far as whole rows allow: 4 MiB as float32."""


def cut(graph: Any) -> None:
    """Replace the products with large quantised matrices in an onnx_ir graph by products with pieces, joined."""
    for node in [
        node for node in graph if node.op_type == "MatMulNBits" and _rows(node) < node.attributes.get_int("N")
    ]:
        made = list(_products(graph, node))
        [old], [new] = node.outputs, made[-1].outputs
        new.shape, new.type = old.shape, old.type
        graph.insert_before(node, made)
        onnx_ir.convenience.replace_all_uses_with(old, new)
        graph.remove(node, safe=True)


def _rows(node: Any) -> int:
    """Rows of a piece of the matrix of a product."""
    return max(1, PIECE // node.attributes.get_int("K"))


def _products(graph: Any, node: Any) -> Iterator[Any]:
    """The slices, a product with each, and the node that joins the results."""
    x, *tables = node.inputs
    rows, share, parts = node.attributes.get_int("N"), _rows(node), []
    for begin in range(0, rows, share):
        end = min(begin + share, rows)
        ends = [_constant(graph, begin), _constant(graph, end), _constant(graph, 0)]
        slices = [onnx_ir.node("Slice", [table, *ends]) for table in tables]
        yield from slices
        sizes = {**{name: value.value for name, value in node.attributes.items()}, "N": end - begin}
        yield (part := onnx_ir.node("MatMulNBits", [x, *(one.outputs[0] for one in slices)], sizes, domain=node.domain))
        parts.append(part.outputs[0])
    yield onnx_ir.node("Concat", parts, {"axis": -1})


def _constant(graph: Any, number: int) -> Any:
    """A frozen array of one integer."""
    name = f"packed.number_{number}"
    if name not in graph.initializers:
        value = onnx_ir.tensor(np.array([number]), name=name)
        graph.initializers[name] = onnx_ir.Value(
            name=name, const_value=value, shape=value.shape, type=onnx_ir.TensorType(value.dtype)
        )
    return graph.initializers[name]
