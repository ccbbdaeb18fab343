"""A space over weights without entries: arrays are tensors of the meta device, and moving them does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Direction, Draw
from zoplat.core.noise import Noise, Stream
from zoplat.space.backend import Points
from zoplat.space.counting import CountingBackend
from zoplat_devices.pytorch.rehearsal.allocations import UNCOUNTED, Allocations

STATE = "state"


class ShapedNoise(Noise):
    """Numbers on the host, by address: laws are asked for a row or two, to find out what they share."""

    name = "shaped"

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        generator = torch.Generator().manual_seed(hash((law, stream, first)) % (1 << 63))
        return torch.empty(shape, device="cpu").normal_(generator=generator)


class ShapedBackend(CountingBackend):
    """Makes tensors of the meta device and moves nothing.

    Args:
        trace: counts the arrays that are made; those in files as nothing.
    """

    def __init__(self, trace: Allocations) -> None:
        super().__init__()
        self._trace = trace
        self.noise, self.empty, self.mapped = ShapedNoise(), self._made, self._in_file

    def _made(self, shape: tuple[int, ...], dtype: str) -> Any:
        with torch.inference_mode(False), self._trace.owned(STATE):
            return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")

    def _in_file(self, shape: tuple[int, ...], dtype: str) -> Any:
        with torch.inference_mode(False), self._trace.owned(UNCOUNTED):
            return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")

    def points(self, directions: Sequence[Direction]) -> Points:
        return _NoPoints(self, directions)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Array:
        return torch.empty(tile.shape, device="meta")

    def draw_factors(
        self, draw: Draw, blocks: Sequence[Block], u: Mapping[str, Array], vt: Mapping[str, Array] | None
    ) -> None:
        """Nothing."""


class _NoPoints(Points):
    """Writes nothing."""

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Array) -> None:
        """Nothing."""
