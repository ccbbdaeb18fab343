"""Low-rank laws, which generate the entries of z from its factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from zoplat.core.arrays import Array
from zoplat.core.blocks import Tile
from zoplat.core.noise import Key, Noise
from zoplat.core.sampler import Sampler


@dataclass(frozen=True)
class LowRankSampler(Sampler):
    """z = U Vᵀ on the blocks that have factors, a plain Gaussian on all others."""

    @abstractmethod
    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        """(U, V) with z = U Vᵀ on a tile of a matrix; shapes (rows, r) and (columns, r)."""

    def has_factors(self, shape: tuple[int, ...]) -> bool:
        """Whether z has factors on blocks of this shape; by default on matrices."""
        return len(shape) == 2

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array] | None:
        return self.matrix_factors(tile, key, noise) if self.has_factors(tile.block.shape) else None

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        factors = self.factors(tile, key, noise)
        out[:] = factors[0] @ factors[1].T if factors else noise.normal(tile.shape, key, tile)


@dataclass(frozen=True, eq=False)
class Accumulated(Sampler):
    """A Vᵀ on some matrices, a sum of draws that share V. It is not random; A changes as draws are added.

    Attributes:
        a: name of a matrix → A, (rows, r).
        vt: name of a matrix → Vᵀ, (r, columns).
    """

    a: Mapping[str, Array]
    vt: Mapping[str, Array]

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array] | None:
        name = tile.block.name
        return (self.a[name][tile.start : tile.stop], self.vt[name].T) if name in self.a else None

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        factors = self.factors(tile, key, noise)
        out[:] = factors[0] @ factors[1].T if factors else 0.0
