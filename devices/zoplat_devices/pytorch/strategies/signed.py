"""Products of branches whose directions differ by signs alone: zᵢ = U ∘ (rᵢ sᵢᵀ) of one U, by one product with U.

(U ∘ (r sᵀ)) x = r ∘ (U (s ∘ x)), and row k of U ∘ (r sᵀ) is r[k] · U[k] ∘ s. So many rows of a batch can have a
direction each, and no weight is formed for any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Direction
from zoplat.core.noise import Key
from zoplat.core.row_signs import RowSigns
from zoplat.space.parameter_space import ParameterSpace


class SignedBranches:
    """cᵢ U ∘ (rᵢ sᵢᵀ) for each branch i of a pass.

    Args:
        space: of the weights.
        law: of the directions.
        key: that U is drawn under.
        terms: for each branch the key of its signs, and c.
        entries: of U that are formed at a time, about.
    """

    def __init__(
        self, space: ParameterSpace, law: RowSigns, key: Key, terms: Sequence[tuple[Key, float]], entries: int
    ) -> None:
        self._space, self._law, self._entries = space, law, entries
        self._keys, self._coefficients = [of_signs for of_signs, _ in terms], [c for _, c in terms]
        self._base = Direction.of(law.base, key)

    @classmethod
    def of(cls, space: ParameterSpace, directions: Sequence[Direction], entries: int) -> SignedBranches | None:
        """What the directions have in common; None where they are not of this form."""
        found = [[*direction] for direction in directions]
        drawn = [draw for some in found for draw, _ in some]
        shared = {(draw.sampler, draw.sampler.shared(draw.key)) for draw in drawn if isinstance(draw.sampler, RowSigns)}
        is_plain = all(isinstance(d.sampler, RowSigns) and d.part is None and not d.scales for d in drawn)
        if len(shared) != 1 or not is_plain or any(len(some) > 1 for some in found):
            return None
        [(law, key)], zero = shared, (drawn[0].key, 0.0)
        return cls(space, law, key, [(some[0][0].key, some[0][1]) if some else zero for some in found], entries)

    def covers(self, block: Block) -> bool:
        """Whether the directions have this form on a block."""
        return self._law.is_summed(Tile(block, 0, block.shape[0]))

    def product(self, block: Block, x: Any, transposed: bool) -> Any:
        """The product x D of each branch, or x Dᵀ when `transposed`, D its direction.

        Args:
            block: the matrix.
            x: (n, rows, in).
            transposed: as `torch.nn.functional.linear` takes its weight.

        Returns:
            (n, rows, out), contiguous
        """
        n, (r, s) = len(x), self._signs(block, x)
        if not transposed:
            x, y = x * r[:, None], x.new_zeros(n, x.shape[1], block.shape[1])
            for tile, u in self._tiles(block, x):
                y += torch.matmul(x[:, :, tile.start : tile.stop], u)
            return y.mul_(s[:, None])
        x, y = x * s[:, None], x.new_empty(n, x.shape[1], block.shape[0])
        for tile, u in self._tiles(block, x):
            there = slice(tile.start, tile.stop)
            torch.mul(torch.matmul(x, u.t()), r[:, None, there], out=y[:, :, there])
        return y

    def rows(self, block: Block, ids: Any, like: Any) -> Any:
        """Some rows of each branch's direction.

        Args:
            block: the matrix.
            ids: (n, tokens).
            like: a tensor of the dtype that is wanted.

        Returns:
            (n, tokens, width)
        """
        needed, where = distinct(ids)
        u = like.new_empty(len(needed), block.shape[1])
        for place, row in enumerate(needed):
            u[place] = self._space.entries(self._base, Tile(block, row, row + 1))[0]
        r, s = self._signs(block, like)
        return functional.embedding(where, u) * torch.gather(r, 1, ids)[:, :, None] * s[:, None]

    def _tiles(self, block: Block, like: Any) -> Iterator[tuple[Tile, Any]]:
        """Rows of the matrix a few at a time, with U on them in the dtype of a tensor."""
        for tile in block.tiles(self._entries):
            yield tile, torch.as_tensor(self._space.entries(self._base, tile)).to(like.dtype)

    def _signs(self, block: Block, like: Any) -> tuple[Any, Any]:
        """The signs of all branches, c times r and s: (n, rows) and (n, columns)."""
        found: Any = self._law.table(block, self._keys, self._space.noise)
        r, s, lines = found
        c = torch.tensor(self._coefficients, device=r.device)[:, None]
        return (r[lines] * c).to(like), s[lines].to(like)


def distinct(ids: Any) -> tuple[list[int], Any]:
    """The different ids, and where each one is among them; on shapes alone, as many as there could be."""
    if ids.is_meta:
        return [0] * ids.numel(), ids
    needed, where = torch.unique(ids, return_inverse=True)
    return needed.tolist(), where
