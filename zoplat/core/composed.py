"""Laws whose entries are computed from those of other directions, tile by tile."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Tile
from zoplat.core.direction import Direction
from zoplat.core.noise import Key, Noise
from zoplat.core.sampler import Sampler

Entries: TypeAlias = "Callable[[Direction], Array]"
"""Forms a direction on a tile, float32 in scratch that the next call reuses."""


@dataclass(frozen=True)
class Composed(Sampler):
    """A vector each of whose entries is computed from the same entry of some directions, such as a ratio of two sums.

    It is a name like any other, for updates that are no sum of random vectors. The directions are fields of the law, as
    tuples of their terms, and must be drawn again the same at any time: no buffers in them.
    """

    @abstractmethod
    def combine(self, entries: Entries) -> Array:
        """The entries on a tile, of its shape. A space calls this, and forms on the tile the directions asked for."""

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        """Only a space can.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} is formed by a space, from the directions it is computed from.")
