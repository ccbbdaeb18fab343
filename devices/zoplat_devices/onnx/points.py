"""The batched strategy of a graph: losses at several points by one answer, each with trained weights of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Tile
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.onnx.graph import Graph
from zoplat_devices.onnx.proof import nudged
from zoplat_devices.text.layout import cut, laid_out

TOLERANCE = 1e-4


class Stacks:
    """Losses at θ + d for several d.

    Args:
        graph: of which trained weights have a dimension in front.
        space: at θ whenever losses are asked.
        arrays: of the space by name, in the shapes of the graph.
    """

    def __init__(self, graph: Graph, space: ParameterSpace, arrays: Mapping[str, Any]) -> None:
        self.graph, self.space = graph, space
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.scratch = np.empty(0, np.float32)

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d, in passes of not too many tokens."""
        layout = laid_out(rows, "causal", rows[0].example.loss == "tokens")
        tokens = len(layout.sequences) * max(len(ids) for ids in layout.sequences)
        return [loss for some in cut(directions, tokens) for loss in self.graph.losses(rows, self._formed(some))]

    def _formed(self, directions: Sequence[Direction]) -> dict[str, Any]:
        """Weights of all points, by name."""
        blocks, n = self.space.blocks, len(directions)
        if self.scratch.size < 2 * n * self.space.size:
            self.scratch = np.empty(2 * n * self.space.size, np.float32)
        lines, whole = self.scratch[: 2 * n * self.space.size].reshape(2, -1)
        lines = lines.reshape(n, -1)
        self.space.points(directions).write([Tile(block, 0, block.shape[0]) for block in blocks], range(n), lines)
        return dict(self._apart(lines, whole))

    def _apart(self, lines: Any, whole: Any) -> Iterator[tuple[str, Any]]:
        """Each block of lines that hold all of them, one piece of memory a block."""
        begin, n = 0, len(lines)
        for block in self.space.blocks:
            end = begin + block.size
            made = whole[n * begin : n * end].reshape(n, -1)
            made[:] = lines[:, begin:end]
            yield block.name, made.reshape(n, *self.shapes[block.name])
            begin = end


def proved(graph: Graph, rows: Sequence[Row], arrays: Mapping[str, Any], where: str) -> float:
    """How far losses at two points, answered at once, are from those of one after the other.

    Raises:
        ZoplatError: further than rounding explains.
    """
    with nudged(arrays):
        pairs = {name: np.stack([0.5 * array, array]) for name, array in arrays.items()}
        together = graph.losses(rows, pairs)
        apart = [graph.losses(rows, {name: pair[i : i + 1] for name, pair in pairs.items()})[0] for i in range(2)]
    off = max(abs(one - other) for one, other in zip(together, apart, strict=True))
    if not off <= TOLERANCE * max(1.0, *map(abs, apart)):
        raise ZoplatError(
            f"The graph in {where} answers {together} at two points asked together and {apart} at one after the other. "
            "Use -o device.strategy=sequential."
        )
    return off
