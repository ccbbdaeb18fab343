"""The batched strategy of a graph: losses at several points in one run, with trained weights for each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Tile
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.onnx.graph import Graph
from zoplat_devices.onnx.proof import TOGETHER, Losses, Move, nudged
from zoplat_devices.text.layout import cut, laid_out

TOLERANCE = 1e-4
"""Largest difference, relative to the loss, between points evaluated together and one after the other."""


class Stacks:
    """Losses at θ + d for several directions d.

    Args:
        graph: whose trained weights have a leading dimension of points.
        space: of the trained weights; its arrays hold θ when losses are computed.
        arrays: of the space by name, in the shapes of the graph.
    """

    def __init__(self, graph: Graph, space: ParameterSpace, arrays: Mapping[str, Any]) -> None:
        self._graph, self._space = graph, space
        self._shapes = {name: array.shape for name, array in arrays.items()}
        self._scratch: Any = np.empty(0, np.float32)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of working arrays held between calls."""
        return int(self._scratch.nbytes)

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d, in runs that are limited in tokens."""
        layout = laid_out(rows, "causal", rows[0].example.loss == "tokens")
        tokens = len(layout.sequences) * max(len(ids) for ids in layout.sequences)
        return [loss for some in cut(directions, tokens) for loss in self._graph.losses(rows, self._formed(some))]

    def _formed(self, directions: Sequence[Direction]) -> dict[str, Any]:
        """Weights of all points: by name, arrays of the graph's shapes with a leading dimension of points."""
        n, begin, formed = len(directions), 0, {}
        if self._scratch.size < n * self._space.size:
            self._scratch = np.empty(n * self._space.size, np.float32)
        points = self._space.points(directions)
        for block in self._space.blocks:
            array = self._scratch[begin : begin + n * block.size].reshape(n, -1)
            points.write([Tile(block, 0, block.shape[0])], range(n), array)
            formed[block.name] = array.reshape(n, *self._shapes[block.name])
            begin += n * block.size
        return formed


def at_moves(graph: Graph, rows: Sequence[Row], arrays: Mapping[str, Any]) -> Losses:
    """Losses with some weights moved, several sets of moves in one run; what the arrays hold stays."""

    def losses(several: Sequence[Sequence[Move]], share: float) -> list[float]:
        found: list[float] = []
        for some in (several[begin : begin + TOGETHER] for begin in range(0, len(several), TOGETHER)):
            moved = {name: np.stack([array] * len(some)) for name, array in arrays.items()}
            for point, move in ((point, move) for point, moves in enumerate(some) for move in moves):
                moved[move.block][point].reshape(-1)[move.entry] += np.float32(share * move.by)
            found += graph.losses(rows, moved)
        return found

    return losses


def check(graph: Graph, rows: Sequence[Row], arrays: Mapping[str, Any], where: str) -> float:
    """Largest difference between the losses at two points evaluated together and one after the other.

    Raises:
        ZoplatError: it is more than rounding explains, so the graph mixes up the points.
    """
    with nudged(arrays):
        pairs = {name: np.stack([0.5 * array, array]) for name, array in arrays.items()}
        together = graph.losses(rows, pairs)
        alone = [graph.losses(rows, {name: pair[i : i + 1] for name, pair in pairs.items()})[0] for i in range(2)]
    off = max(abs(one - other) for one, other in zip(together, alone, strict=True))
    if not off <= TOLERANCE * max(1.0, *map(abs, alone)):
        raise ZoplatError(
            f"The graph in {where} computes losses {together} at two points together and {alone} one after the other. "
            "Use -o device.strategy=sequential."
        )
    return off
