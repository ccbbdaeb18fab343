"""Reductions over θ and over directions: sums, quantiles, norms and dot products by block. No weight is written."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
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
        return self._by_block(blocks, lambda tile: count(*self._given(tile, direction, buffers)))

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
                below = float(self._total(block, partial(self._below, _from_bits(middle, dtype), score, buffers)))
                low, high = (low, middle) if below >= share * block.size else (middle, high)
            found[block.name] = _from_bits(high, dtype)
        return found

    def _below(self, limit: float, score: Callable[..., Array], buffers: Sequence[Buffer], tile: Tile) -> Any:
        """How many scores of a tile are at most the limit."""
        backend = self._backend.of(tile.block)
        return (score(backend.wide(tile), *backend.all_near(tile.rows_of(buffers))) <= limit).sum()

    def _given(self, tile: Tile, direction: Direction, buffers: Sequence[Buffer]) -> list[Array | None]:
        """(theta, g, *buffers) on a tile."""
        backend = self._backend.of(tile.block)
        theta, entries = backend.wide(tile), backend.entries(direction, tile, "gradient")
        return [theta, entries, *backend.all_near(tile.rows_of(buffers))]

    def norm(self, blocks: Iterable[Block], direction: Direction) -> float:
        """Euclidean norm of a direction over some blocks."""

        def square(tile: Tile) -> Any:
            entries = self._float64(direction, tile)
            return entries @ entries

        totals = [self._total(block, square) for block in blocks]
        return _as_float32(math.sqrt(sum(map(float, totals))))

    def dot(self, blocks: Iterable[Block], one: Direction, other: Direction) -> dict[str, float]:
        """⟨one, other⟩ by block."""
        return self._by_block(blocks, lambda tile: self._float64(one, tile) @ self._float64(other, tile))

    def _by_block(self, blocks: Iterable[Block], count: Callable[[Tile], Any]) -> dict[str, float]:
        """For each block count(tile) summed over its tiles; a device is waited for when it has begun with all."""
        totals = {block.name: self._total(block, count) for block in blocks}
        return {name: _as_float32(float(total)) for name, total in totals.items()}

    def _total(self, block: Block, count: Callable[[Tile], Any]) -> Any:
        """count(tile) summed over the tiles of a block, float64 without dimensions; nothing is waited for."""
        backend = self._backend.of(block)
        tiles = [*block.tiles(backend.reads_at_once)]
        each = backend.empty((len(tiles),), "float64")
        for index, tile in enumerate(tiles):
            each[index] = count(tile)
        return each.sum()

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
