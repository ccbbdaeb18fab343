"""How far rounding has moved the stored weights away from θ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Direction


class DriftMeter:
    """A sample of θ in float64, changed by every update and by no perturbation, for comparison with the stored weights.

    The sample is the first rows, about `ENTRIES` entries, of some `BLOCKS` blocks.

    Args:
        blocks: the weights; their arrays hold θ.
        theta_of: block → the array that holds its θ.
        entries: (direction, tile) → the direction's entries, an array of the tile's shape.
        empty: (shape, dtype) → a new array of the device.

    Attributes:
        shadows: name of a block → the sampled rows, and their θ in float64.
        marks: name of a block → its sampled rows as they were stored at the last mark.
        pins: name of a block → θ of its sampled rows when `pin` was called last.
    """

    BLOCKS, ENTRIES = 8, 2048

    def __init__(
        self,
        blocks: Sequence[Block],
        theta_of: Callable[[Block], Array],
        entries: Callable[[Direction, Sequence[Tile]], Iterator[Array]],
        empty: Callable[[tuple[int, ...], str], Array],
    ) -> None:
        self._theta_of = theta_of
        self._entries = entries
        self.shadows: dict[str, tuple[Tile, Array]] = {}
        self.marks: dict[str, Array] = {}
        self.pins: dict[str, Array] = {}
        self._empty, self._is_touched = empty, False
        for block in blocks[:: max(1, len(blocks) // self.BLOCKS)]:
            tile = next(block.tiles(self.ENTRIES))
            shadow = empty(tile.shape, "float64")
            shadow[:] = tile.of(theta_of(block))
            self.shadows[block.name] = (tile, shadow)
            self.marks[block.name] = empty(tile.shape, block.dtype)
        self.mark()

    def add(self, direction: Direction, decay: float) -> None:
        """θ ← (1 − decay)·θ + direction; called for every update, whether it is performed now or later."""
        tiles = [tile for tile, _ in self.shadows.values()]
        for (tile, shadow), entries in zip(self.shadows.values(), self._entries(direction, tiles), strict=True):
            if tile.block.decays and decay:
                shadow *= 1 - decay
            shadow += entries
            self._is_touched = self._is_touched or direction.touches(tile.block)

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
            shadow += theta[: sample.stop] - before

    def is_lost(self, dtype: str = "") -> bool:
        """Whether updates reached the sample since the start, and θ is still the last mark in a dtype, the block's own.

        Updates that a rule performs in a sweep are not known here, and do not count.
        """
        if not self._is_touched:
            return False
        for name, (tile, shadow) in self.shadows.items():
            now, before = (self._empty(tile.shape, dtype or tile.block.dtype) for _ in range(2))
            now[:], before[:] = shadow, self.marks[name]
            if bool((now != before).any()):
                return False
        return True

    def measure(self) -> float:
        """‖W − θ‖ / ‖θ‖ on the sample, W the stored weights."""
        off = norm = 0.0
        for tile, shadow in self.shadows.values():
            difference = (tile.of(self._theta_of(tile.block)) - shadow).reshape(-1)
            off += float(difference @ difference)
            norm += float(shadow.reshape(-1) @ shadow.reshape(-1))
        return math.sqrt(off / norm) if norm else 0.0

    def pin(self) -> None:
        """Remember θ of the sample as it is now, for `moved`; no weight is read or written."""
        self.pins = {name: 1.0 * shadow for name, (_, shadow) in self.shadows.items()}

    def moved(self) -> dict[str, tuple[float, float]]:
        """By block, the root mean square of how far θ of the sample moved since `pin`, and that of θ itself."""
        found = {}
        for name, pinned in self.pins.items():
            now = self.shadows[name][1]
            flat = [(now - pinned).reshape(-1), now.reshape(-1)]
            far, theta = (math.sqrt(float(array @ array) / len(array)) for array in flat)
            found[name] = (far, theta)
        return found

    def mark(self) -> None:
        """Remember the stored weights of the sample, for `changed`."""
        for name, (tile, _) in self.shadows.items():
            self.marks[name][:] = tile.of(tile.block.array)

    def changed(self) -> float:
        """Share of the sampled entries whose stored number differs from the one at the mark."""
        differing = sum(
            int((tile.of(tile.block.array) != self.marks[name]).sum()) for name, (tile, _) in self.shadows.items()
        )
        return differing / sum(tile.size for tile, _ in self.shadows.values())
