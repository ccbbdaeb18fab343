"""A space whose blocks lie on several devices: each block is moved by the backend of the device that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TypeVar

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Tile
from zoplat.core.direction import Direction, Draw
from zoplat.core.noise import NoiseByBlock
from zoplat.space.backend import Backend, Kernel
from zoplat.space.drift import DriftMeter
from zoplat.space.rounding import Rounding
from zoplat.space.update import Update

T = TypeVar("T")


class ShardedBackend(Backend):
    """Backends of several devices as one. Noise belongs to names of blocks, so no number depends on where they lie.

    What belongs to a block (its buffers, scratch, factors) is allocated beside it. What is of all blocks, numbers and
    the sample of the drift meter, is on the first device. No array is used together with one of another device; only
    the sample is copied, some thousand numbers a pass.

    Args:
        parts: for each device the names of its blocks, and its backend; the first device is the home.
        at_home: an array of any of them → the same numbers on the first device.
    """

    def __init__(self, parts: Sequence[tuple[frozenset[str], Backend]], at_home: Callable[[Array], Array]) -> None:
        home = parts[0][1]
        super().__init__(NoiseByBlock(lambda block: self.of(block).noise, home.noise), home.empty, home.mapped)
        self._parts = [backend for _, backend in parts]
        self._place = {name: place for place, (names, _) in enumerate(parts) for name in names}
        self._at_home = at_home

    def of(self, block: Block) -> Backend:
        return self._parts[self._place[block.name]]

    def at_home(self, array: Array) -> Array:
        return self._at_home(array)

    def attach(self, blocks: Sequence[Block], rounding: Rounding) -> None:
        super().attach(blocks, rounding)
        for place, part in enumerate(self._parts):
            part.attach([block for block in blocks if self._place[block.name] == place], rounding)

    @property
    def name(self) -> str:
        return " and ".join(dict.fromkeys(part.name for part in self._parts))

    @property
    def scratch_bytes(self) -> int:
        return super().scratch_bytes + sum(part.scratch_bytes for part in self._parts)

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        for part, some in self._by_part(blocks, lambda block: block):
            part.move(some, update)

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        self.of(block).form(block, direction, target)

    def sweep(
        self,
        block: Block,
        kernel: Kernel,
        update: Update,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        self.of(block).sweep(block, kernel, update, direction, buffers, drift)

    def sweep_all(
        self,
        blocks: Iterable[tuple[Block, Update]],
        kernel: Kernel,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        for part, some in self._by_part(blocks, lambda pair: pair[0]):
            part.sweep_all(some, kernel, direction, buffers, drift)

    @contextmanager
    def writable_theta(self, tile: Tile, update: Update, drift: DriftMeter) -> Iterator[Array]:
        with self.of(tile.block).writable_theta(tile, update, drift) as theta:
            yield theta

    @contextmanager
    def writable_rows(self, tile: Tile, buffers: Sequence[Buffer]) -> Iterator[list[Array | None]]:
        with self.of(tile.block).writable_rows(tile, buffers) as rows:
            yield rows

    def updated(self, tile: Tile, update: Update) -> Array:
        return self.of(tile.block).updated(tile, update)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Array:
        return self.of(tile.block).entries(direction, tile, purpose)

    def gathered(self, direction: Direction, tiles: Sequence[Tile], may_wait: bool) -> Array:
        ends = [*accumulate((tile.size for tile in tiles), initial=0)]
        whole = self.empty((ends[-1],), "float64")
        begins = dict(zip(tiles, ends, strict=False))
        for part, some in self._by_part(tiles, lambda tile: tile.block):
            found, begin = part.gathered(direction, some, may_wait=False), 0
            for tile in some:
                whole[begins[tile] : begins[tile] + tile.size] = found[begin : begin + tile.size]
                begin += tile.size
        return whole

    def factors_of(self, direction: Direction, tile: Tile) -> tuple[Array, Array] | None:
        return self.of(tile.block).factors_of(direction, tile)

    def wide(self, tile: Tile, purpose: str = "theta") -> Array:
        return self.of(tile.block).wide(tile, purpose)

    def scratch(self, tile: Tile, purpose: str) -> Array:
        return self.of(tile.block).scratch(tile, purpose)

    def _by_part(self, things: Iterable[T], block_of: Callable[[T], Block]) -> Iterator[tuple[Backend, list[T]]]:
        """Things that belong to blocks, by the backend of these; backends in the order of the devices."""
        found: list[list[T]] = [[] for _ in self._parts]
        for thing in things:
            found[self._place[block_of(thing).name]].append(thing)
        return ((part, some) for part, some in zip(self._parts, found, strict=True) if some)
