"""How far rounding has moved the stored weights away from θ."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Protocol

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.codes import PACKED
from zoplat.core.direction import Direction
from zoplat.space.rounding import Rounding


class Arrays(Protocol):
    """What the meter needs of a backend; see `Backend`."""

    @property
    def rounding(self) -> Rounding:
        """Knows which array holds θ."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A new array."""

    def at_home(self, array: Array) -> Array:
        """The same numbers where `empty` makes arrays."""

    def gathered(self, direction: Direction, tiles: Sequence[Tile], may_wait: bool) -> Array:
        """The entries of a direction on some tiles."""

    def then(self, name: Hashable, action: Callable[[], None]) -> None:
        """Do something after that."""


class DriftMeter:
    """A sample of θ in float64, changed by every update and by no perturbation, for comparison with the stored weights.

    The sample is the first rows, about `ENTRIES` entries, of some `BLOCKS` blocks.

    Args:
        blocks: the weights; their arrays hold θ.
        arrays: the backend that moves them.

    Attributes:
        shadows: name of a block → the sampled rows, and their θ in float64.
        marks: name of a block → its sampled rows as they were stored at the last mark.
    """

    BLOCKS, ENTRIES = 8, 2048

    def __init__(self, blocks: Sequence[Block], arrays: Arrays) -> None:
        self._arrays = arrays
        self._tiles = [next(block.tiles(self.ENTRIES)) for block in blocks[:: max(1, len(blocks) // self.BLOCKS)]]
        size = sum(tile.size for tile in self._tiles)
        self._whole, self._decays = arrays.empty((size,), "float64"), arrays.empty((size,), "float64")
        self.shadows: dict[str, tuple[Tile, Array]] = {}
        self.marks: dict[str, Array] = {}
        begin = 0
        for tile in self._tiles:
            self._decays[begin : begin + tile.size] = float(tile.block.decays)
            self.shadows[tile.block.name] = (tile, self._whole[begin : begin + tile.size].reshape(tile.shape))
            self.marks[tile.block.name] = arrays.empty(tile.shape, _of_marks(tile.block))
            begin += tile.size
        self.restart()

    def restart(self) -> None:
        """Take what the arrays hold as θ."""
        self._pending: list[tuple[Direction, float]] = []
        self._is_touched = False
        self._pinned: Array | None = None
        for tile, shadow in self.shadows.values():
            self._arrays.rounding.read(tile, shadow)
        self.mark()

    def add(self, direction: Direction, decay: float) -> None:
        """θ ← (1 − decay)·θ + direction; called for every update, whether it is performed now or later."""
        self._pending.append((direction, decay))
        self._is_touched = self._is_touched or any(direction.touches(tile.block) for tile in self._tiles)

    def catch_up(self) -> None:
        """Perform the updates so far on the sample, before the weights follow them; in the queue where there is one."""
        pending, self._pending = self._pending, []
        may_wait = not any(decay for _, decay in pending)
        for direction, decay in pending:
            if decay:
                self._whole *= 1 - decay * self._decays
            entries = self._arrays.gathered(direction, self._tiles, may_wait)
            if may_wait:
                self._arrays.then("drift", partial(_accumulate, self._whole, entries))
            else:
                _accumulate(self._whole, entries)

    def rows(self, block: Block) -> int:
        """How many rows of a block are sampled, from the first on."""
        return self.shadows[block.name][0].stop if block.name in self.shadows else 0

    def before(self, tile: Tile, theta: Array) -> Array | None:
        """A copy of the sampled rows of a tile, before a rule writes to it; None if it has none."""
        known = self.shadows.get(tile.block.name)
        return None if known is None or tile.start else 1.0 * theta[: known[0].stop]

    def after(self, tile: Tile, theta: Array, before: Array | None) -> None:
        """Add what a rule changed on the sampled rows since `before`."""
        if before is not None:
            sample, shadow = self.shadows[tile.block.name]
            shadow += self._arrays.at_home(theta[: sample.stop] - before)

    def is_lost(self, dtype: str = "") -> bool:
        """Whether updates reached the sample since the start, and θ is still the last mark in a dtype, the block's own.

        Updates that a rule performs in a sweep are not known here, and do not count.
        """
        self.catch_up()
        if not self._is_touched:
            return False
        for name, (tile, shadow) in self.shadows.items():
            now, before = (self._arrays.empty(tile.shape, dtype or _of_marks(tile.block)) for _ in range(2))
            now[:], before[:] = shadow, self.marks[name]
            if bool((now != before).any()):
                return False
        return True

    def measure(self) -> float:
        """‖W − θ‖ / ‖θ‖ on the sample, W the stored weights."""
        self.catch_up()
        off = norm = 0.0
        for tile, shadow in self.shadows.values():
            held = self._arrays.empty(tile.shape, tile.block.wide_dtype)
            self._arrays.rounding.read(tile, held)
            difference = (held - shadow).reshape(-1)
            off += float(difference @ difference)
            norm += float(shadow.reshape(-1) @ shadow.reshape(-1))
        return math.sqrt(off / norm) if norm else 0.0

    def pin(self) -> None:
        """Remember θ of the sample as it is now, for `moved`; no weight is read or written."""
        self._pinned = self._theta()

    def moved(self) -> dict[str, tuple[float, float]]:
        """By block, the root mean square of how far θ of the sample moved since `pin`, and that of θ itself."""
        if self._pinned is None:
            return {}
        now, found, begin = self._theta(), {}, 0
        far = now - self._pinned
        for tile in self._tiles:
            parts = [array[begin : begin + tile.size] for array in (far, now)]
            one, other = (math.sqrt(float(part @ part) / tile.size) for part in parts)
            found[tile.block.name], begin = (one, other), begin + tile.size
        return found

    def _theta(self) -> Array:
        """θ of the sample with the updates so far, which are left for `catch_up` to perform."""
        whole = 1.0 * self._whole
        for direction, decay in self._pending:
            if decay:
                whole *= 1 - decay * self._decays
            whole += self._arrays.gathered(direction, self._tiles, may_wait=False)
        return whole

    def mark(self) -> None:
        """Remember the stored weights of the sample, for `changed`."""
        for name, (tile, _) in self.shadows.items():
            self._arrays.rounding.stored(tile, self.marks[name])

    def changed(self) -> float:
        """Share of the sampled entries whose stored number differs from the one at the mark."""
        differing = 0
        for name, (tile, _) in self.shadows.items():
            now = self._arrays.empty(tile.shape, _of_marks(tile.block))
            self._arrays.rounding.stored(tile, now)
            differing += int((now != self.marks[name]).sum())
        return differing / sum(tile.size for tile, _ in self.shadows.values())


def _of_marks(block: Block) -> str:
    """The dtype in which a block's stored numbers are compared: its own; of codes, one for each."""
    return "uint8" if block.dtype == PACKED else block.dtype


def _accumulate(whole: Array, entries: Array) -> None:
    whole += entries
