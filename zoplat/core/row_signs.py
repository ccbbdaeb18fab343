"""A law whose draws of one step differ by signs alone, so that many rows of a batch can have a direction each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.noise import Key, Noise, stream
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
        (rows, columns), block = tile.shape, tile.block
        r = self._signs(block, "r", key, noise, tile.start, (rows, 1))
        return r, self._signs(block, "s", key, noise, 0, (1, columns))

    def table(self, block: Block, keys: Sequence[Key], noise: Noise) -> tuple[Array, Array, list[int]]:
        """The signs of several draws of one step on a matrix, in as few calls as there are sides.

        Returns:
            r, (draws, rows); s, (draws, columns); for each key its line. There may be other lines in between.
        """
        first = min(keys, key=lambda key: key.draw)
        lines = [key.draw - first.draw for key in keys]
        r, s = (
            self._signs(block, side, first, noise, 0, (max(lines) + 1, length))
            for side, length in zip("rs", block.shape, strict=True)
        )
        return r, s, lines

    def _signs(self, block: Block, side: str, key: Key, noise: Noise, start: int, shape: tuple[int, int]) -> Array:
        """Signs of a side from one on; all draws of a step have theirs in one stream, draw after draw."""
        before = (key.draw + 1) * block.shape["rs".index(side)]
        return noise.numbers("sign", stream(self.shared(key), block.name, side), before + start, shape)

    def is_summed(self, tile: Tile) -> bool:
        """Whether a sum of draws is formed there as U times a sum of signs: on matrices, where U has no factors."""
        return tile.is_matrix and type(self.base).factors is Sampler.factors
