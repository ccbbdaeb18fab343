"""Samplers: laws of random directions z, which generate the entries of z on a tile from its key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Protocol

from zoplat.core.arrays import Array
from zoplat.core.blocks import Buffer, Tile
from zoplat.core.fields import Checked
from zoplat.core.noise import Key, Noise

PLAIN = (int, float, str, type(None))
"""What a field holds that is a number, a word or a choice."""


class Extent(Protocol):
    """What a law may use of the parameter space."""

    @property
    def size(self) -> int:
        """Number of entries d."""

    def length(self, sampler: Sampler, key: Key) -> float:
        """Euclidean norm of the vector that `fill` writes under a key; generates all its random numbers."""


class Sampler(Checked, ABC):
    """The law of z. The fields of the frozen dataclass are its parameters; entries have unit variance by convention."""

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The buffers that entries are made of: those among the fields."""
        return tuple(value for value in vars(self).values() if isinstance(value, Buffer))

    @property
    def is_whole(self) -> bool:
        """Whether every entry is a whole number, as codes need; see `--tune codes`."""
        return False

    @property
    def is_lasting(self) -> bool:
        """Whether a key gives the same vector at any later step, and a checkpoint can hold the law: by plain fields."""
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]  # every law is a dataclass
        plain = [value.is_lasting if isinstance(value, Sampler) else isinstance(value, PLAIN) for value in values]
        return all(plain) and not self.reads

    def scale(self, space: Extent, key: Key) -> float:
        """A common factor of all entries of z that depends on the whole vector, such as 1 / its norm."""
        return 1.0

    @abstractmethod
    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        """Write the entries of z that fall in `tile` into `out`, a float array of the tile's shape."""

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array] | None:
        """(U, V), shapes (rows, r) and (columns, r), with z = U Vᵀ on the tile; None where the law has no factors."""
        return None

    def variance(self, shape: tuple[int, ...]) -> float:
        """Mean square of the entries on a block of this shape: E[⟨G, z⟩z] is this times G."""
        return 1.0


@dataclass(frozen=True)
class Held(Sampler):
    """A vector that is not random: the entries of a buffer.

    Attributes:
        buffer: read whenever entries are generated.
    """

    buffer: Buffer

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = tile.of(self.buffer.arrays[tile.block.name])
