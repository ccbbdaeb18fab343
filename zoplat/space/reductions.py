"""Reductions over θ and over directions: sums, quantiles, norms and dot products by block. No weight is written."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Tile
from zoplat.core.direction import Direction
from zoplat.space.backend import Backend


class Reductions:
    """Reductions over blocks; for those that read weights the arrays must hold θ.

    Args:
        backend: reads weights and forms entries of directions.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def sums(
        self, blocks: Iterable[Block], count: Callable[..., Any], direction: Direction, buffers: Sequence[Buffer]
    ) -> dict[str, float]:
        """For each block count(theta, g, *buffers) summed over its tiles."""
        found = {}
        for block in blocks:
            found[block.name] = _as_float32(
                sum(float(count(*self._given(tile, direction, buffers))) for tile in block.tiles())
            )
        return found

    def quantiles(
        self, blocks: Iterable[Block], share: float, score: Callable[..., Array], buffers: Sequence[Buffer]
    ) -> dict[str, float]:
        """For each block the least t with score(theta, *buffers) ≤ t on a share of its entries; scores are ≥ 0.

        By bisection over the bit patterns of floats, which are ordered as the numbers are; a pass over the block each.
        """
        found = {}
        for block in blocks:
            dtype = block.wide_dtype
            low, high = -1, 0x7F7FFFFF if dtype == "float32" else 0x7FEFFFFFFFFFFFFF
            while high - low > 1:
                middle = (low + high) // 2
                below = 0
                for tile in block.tiles():
                    backend = self._backend.of(block)
                    scores = score(backend.wide(tile), *backend.all_near(tile.rows_of(buffers)))
                    below += int((scores <= _from_bits(middle, dtype)).sum())
                low, high = (low, middle) if below >= share * block.size else (middle, high)
            found[block.name] = _from_bits(high, dtype)
        return found

    def _given(self, tile: Tile, direction: Direction, buffers: Sequence[Buffer]) -> list[Array | None]:
        """(theta, g, *buffers) on a tile."""
        backend = self._backend.of(tile.block)
        theta, entries = backend.wide(tile), backend.entries(direction, tile, "gradient")
        return [theta, entries, *backend.all_near(tile.rows_of(buffers))]

    def norm(self, blocks: Iterable[Block], direction: Direction) -> float:
        """Euclidean norm of a direction over some blocks."""
        total = 0.0
        for block in blocks:
            for tile in block.tiles():
                entries = self._float64(direction, tile)
                total += float(entries @ entries)
        return _as_float32(math.sqrt(total))

    def dot(self, blocks: Iterable[Block], one: Direction, other: Direction) -> dict[str, float]:
        """⟨one, other⟩ by block."""
        return {
            block.name: _as_float32(
                sum(float(self._float64(one, tile) @ self._float64(other, tile)) for tile in block.tiles())
            )
            for block in blocks
        }

    def _float64(self, direction: Direction, tile: Tile) -> Array:
        """The direction's entries on a tile as a new float64 vector."""
        wide = self._backend.of(tile.block).empty((tile.size,), "float64")
        wide[:] = self._backend.entries(direction, tile).reshape(-1)
        return wide


def _as_float32(number: float) -> float:
    """Rounded to 24 bits, so that the result hardly depends on the order of summation."""
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def _from_bits(bits: int, dtype: str) -> float:
    """The number of a type with this bit pattern."""
    whole, number = ("<I", "<f") if dtype == "float32" else ("<Q", "<d")
    return float(struct.unpack(number, struct.pack(whole, bits))[0])
