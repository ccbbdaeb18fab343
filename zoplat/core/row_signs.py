"""A law whose draws of one step differ by signs alone, so that many rows of a batch can have a direction each."""

from __future__ import annotations

from dataclasses import dataclass

from zoplat.core.arrays import Array
from zoplat.core.blocks import Tile
from zoplat.core.noise import Key, Noise
from zoplat.core.sampler import Extent, Sampler


@dataclass(frozen=True)
class RowSigns(Sampler):
    """z = U ∘ (r sᵀ) on matrices and u ∘ r on vectors: U and u shared by the draws of a step, signs of each draw.

    A product with such a matrix is r ∘ (U (s ∘ x)), so one product with U serves any number of draws; and
    Σ aᵢzᵢ = U ∘ (Σ aᵢ rᵢsᵢᵀ), so a sum of draws needs U once.

    Attributes:
        base: law of U and u.
    """

    base: Sampler

    def scale(self, space: Extent, key: Key) -> float:
        return self.base.scale(space, self.shared(key))

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        self.base.fill(out, tile, self.shared(key), noise)
        for signs in self.signs(tile, key, noise):
            out *= signs

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array] | None:
        found = self.base.factors(tile, self.shared(key), noise)
        if found is None:
            return None
        rows, columns = self.signs(tile, key, noise)
        return found[0] * rows, found[1] * columns.reshape(-1, 1)

    def variance(self, shape: tuple[int, ...]) -> float:
        return self.base.variance(shape)

    def shared(self, key: Key) -> Key:
        """The key that U is drawn under: that of the step."""
        return key.at(key.step)

    def signs(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, ...]:
        """The signs r and s of a tile of a matrix, (rows, 1) and (1, columns); those of a vector, of its shape."""
        if not tile.is_matrix:
            return (noise.sign(tile.shape, key, tile, "r"),)
        rows, columns = tile.shape
        return noise.sign((rows, 1), key, tile, "r"), noise.sign((1, columns), key, tile.block.name, "s")

    def is_summed(self, tile: Tile) -> bool:
        """Whether a sum of draws is formed there as U times a sum of signs: on matrices, where U has no factors."""
        return tile.is_matrix and type(self.base).factors is Sampler.factors
