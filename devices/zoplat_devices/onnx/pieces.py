"""Cut the largest quantised matrices of a graph into pieces of rows, so that a product takes less memory.

Where the processor has no product of float32 and 8-bit weights, ONNX Runtime turns the whole matrix into float32 first:
108 MiB for a head of 49,152 words by 576. A product in pieces takes the memory of one piece at a time. The pieces are
other views of the same bytes of the file, so that neither the file nor what is mapped of it grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir

PIECE = 1 << 21
"""Most entries of a piece: 8 MiB as float32."""


def cut(graph: Path) -> None:
    """Replace the products with large quantised matrices in a graph by products with pieces, joined.

    Args:
        graph: of the file, whose weights are in a file beside it, already quantised.
    """
    model = onnx_ir.load(graph)
    for node in [node for node in model.graph if node.op_type == "MatMulNBits" and _pieces(node) > 1]:
        made = list(_products(model.graph, node))
        [old], [new] = node.outputs, made[-1].outputs
        new.shape, new.type = old.shape, old.type
        model.graph.insert_before(node, made)
        onnx_ir.convenience.replace_all_uses_with(old, new)
        model.graph.remove(node, safe=True)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
    onnx_ir.save(model, graph)


def _pieces(node: Any) -> int:
    """How many pieces the matrix of a product is cut into."""
    return -(-node.attributes.get_int("K") * node.attributes.get_int("N") // PIECE)


def _products(graph: Any, node: Any) -> Iterator[Any]:
    """A product with each piece, and the node that joins the results."""
    x, integers, scales = node.inputs[:3]
    rows, parts = node.attributes.get_int("N"), []
    share = -(-rows // _pieces(node))
    for begin in range(0, rows, share):
        end = min(begin + share, rows)
        weights = [_rows(graph, table, begin, end) for table in (integers, scales)]
        sizes = {**{name: value.value for name, value in node.attributes.items()}, "N": end - begin}
        yield (part := onnx_ir.node("MatMulNBits", [x, *weights], sizes, domain=node.domain))
        parts.append(part.outputs[0])
    yield onnx_ir.node("Concat", parts, {"axis": -1})


def _rows(graph: Any, table: Any, begin: int, end: int) -> Any:
    """Some rows of a frozen array as a value of its own: the same bytes of the file."""
    name, whole = f"{table.name}.{begin}", table.const_value
    if name not in graph.initializers:
        size = whole.nbytes // whole.shape[0]
        shape = onnx_ir.Shape([end - begin, *whole.shape[1:]])
        part = onnx_ir.ExternalTensor(
            whole.location,
            (whole.offset or 0) + begin * size,
            (end - begin) * size,
            whole.dtype,
            shape=shape,
            name=name,
            base_dir=whole.base_dir,
        )
        graph.initializers[name] = onnx_ir.Value(
            name=name, const_value=part, shape=shape, type=onnx_ir.TensorType(whole.dtype)
        )
    return graph.initializers[name]
