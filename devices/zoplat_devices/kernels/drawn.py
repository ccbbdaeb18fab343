"""One draw as a term of fused kernels: random numbers and what is computed with them, two factors, or an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Draw
from zoplat.core.low_rank import Accumulated, LowRankSampler
from zoplat.core.noise import Noise
from zoplat.core.row_signs import RowSigns
from zoplat.core.sampler import Held, Sampler
from zoplat_devices.kernels.factors import Factors, filling
from zoplat_devices.kernels.laws import traced_factors, traced_fill
from zoplat_devices.kernels.tables import TERM, address, term


class Drawn:
    """The terms of one draw on the blocks of a backend, computed on demand and kept.

    Args:
        blocks: of the backend, in order.
        noise: random numbers by address.
        draw: without its part.
        together: draws factors of many matrices at once; None where each is drawn by itself.

    Attributes:
        factor_arrays: copies of factors that terms point to.
        factors: index of a block → (U, V), where the draw has factors.
    """

    def __init__(self, blocks: Sequence[Block], noise: Noise, draw: Draw, together: Factors | None = None) -> None:
        self.factor_arrays: list[Any] = []
        self.factors: dict[int, tuple[Any, Any]] = {}
        self._blocks, self._noise, self._draw, self._together = blocks, noise, draw, together
        self._terms = np.zeros(len(blocks), TERM)
        self._known = np.zeros(len(blocks), bool)
        self._fused = np.zeros(len(blocks), bool)

    def compute(self, index: int) -> None:
        """Compute the term on one block, unless it is known."""
        if not self._known[index]:
            block = self._blocks[index]
            found = self._term(index, Tile(block, 0, block.shape[0]))
            if found is not None:
                self._terms[index], self._fused[index] = found[0], True
            self._known[index] = True

    def on(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The terms on some blocks, without coefficients, and for each whether the kernels can draw it."""
        if self._together:
            self._compute_together(indices[~self._known[indices]])
        for index in indices[~self._known[indices]]:
            self.compute(index)
        return self._terms[indices], self._fused[indices]

    def _compute_together(self, indices: np.ndarray) -> None:
        """Compute the terms on those blocks whose factors can be drawn at once."""
        if self._together is None or isinstance(self._draw.sampler, Held | Accumulated):
            return
        wanted = {}
        for index in indices:
            block = self._blocks[index]
            found = traced_factors(self._draw.sampler, Tile(block, 0, block.shape[0]), self._draw.key)
            if found is not None and _scale(self._draw, block) is not None:
                wanted[index] = found[0], found[1]
        if wanted:
            whole, pairs = self._together.drawn([*wanted.values()])
            self.factor_arrays.append(whole)
            for index, (u, v) in zip(wanted, pairs, strict=True):
                self._terms[index] = self._in_factors(index, u, v)[0]
                self._known[index] = self._fused[index] = True

    def _in_factors(self, index: int, u: Any, v: Any) -> np.ndarray:
        """The term of U, (rows, r), and Vᵀ, (r, columns), which are kept."""
        self.factors[index] = u, v.T
        shape: dict[str, Any] = {"rank": u.shape[1], "columns": v.shape[1]}
        return term("low-rank", **shape, u=address(u), v=address(v), **(_scale(self._draw, self._blocks[index]) or {}))

    @property
    def bytes(self) -> int:
        """Bytes of the factors."""
        return sum(int(array.nbytes) for array in self.factor_arrays)

    def _term(self, index: int, tile: Tile) -> np.ndarray | None:
        sampler, key = self._draw.sampler, self._draw.key
        scale = _scale(self._draw, tile.block)
        if scale is None:
            return None
        if isinstance(sampler, Held):
            array = sampler.buffer.arrays.get(tile.block.name)
            return None if array is None else term("values", u=address(array), **scale)
        factors = sampler.factors(tile, key, self._noise)
        if factors is not None:
            u, v = (_contiguous(array) for array in (factors[0], factors[1].T))
            self.factor_arrays += [u, v]
            return self._in_factors(index, u, v)
        fill = traced_fill(sampler, tile, key)
        return None if fill is None else filling(fill, **scale)


def is_for_one_tile(sampler: Sampler, tile: Tile) -> bool:
    """Whether a law is better formed on a tile alone: factors on a small part of a block, and sums of signs."""
    if isinstance(sampler, RowSigns):
        return sampler.is_summed(tile)
    return isinstance(sampler, LowRankSampler) and 2 * tile.size < tile.block.size


def _scale(draw: Draw, block: Block) -> dict[str, Any] | None:
    """Fields of a draw's scale s on a block, and whether s^−½ multiplies; None if the kernels can't apply it."""
    if not draw.scales:
        return {}
    [(buffer, power), *others] = draw.scales
    array = buffer.arrays.get(block.name)
    plain = array is not None and tuple(array.shape) == block.shape and str(array.dtype).endswith("float32")
    if others or not plain or power not in (1.0, -0.5):
        return None
    return {"scale": address(array), "inverse_root": int(power == -0.5)}


def _contiguous(array: Any) -> Any:
    """A numpy array or torch tensor in contiguous memory; copied if it is not."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array)
