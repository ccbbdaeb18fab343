"""The weights of all branches of a batched forward pass: θ + d for each of several d, formed beside the stored θ."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Direction
from zoplat.space.parameter_space import ParameterSpace
from zoplat.space.side_terms import SideTerm
from zoplat_devices.pytorch.parameters import tensor_of
from zoplat_devices.pytorch.strategies.signed import SignedBranches

FORMED = 1 << 22
"""Entries of weights that are formed at a time, over all branches: about what a last-level cache holds."""
KEPT = 4
"""Numbers of branches, or sets of side terms, whose arrays are kept."""


class Ahead:
    """Room for some blocks of all branches, which are formed before a pass begins.

    Args:
        blocks: to be formed.
        n: number of branches.

    Attributes:
        parts: for each dtype, the blocks as tiles, and their entries one after the other, (n, entries).
        of: name of a block → (n, its size).
    """

    def __init__(self, blocks: Sequence[Block], n: int) -> None:
        self.parts: list[tuple[list[Tile], Any]] = []
        self.of: dict[str, Any] = {}
        for dtype in dict.fromkeys(tensor_of(block).dtype for block in blocks):
            alike = [block for block in blocks if tensor_of(block).dtype == dtype]
            lines = tensor_of(alike[0]).new_empty(n, sum(block.size for block in alike))
            self.parts.append(([Tile(block, 0, block.shape[0]) for block in alike], lines))
            self.of |= zip(
                (block.name for block in alike), lines.split([block.size for block in alike], dim=1), strict=True
            )

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(int(lines.nbytes) for _, lines in self.parts)


class Scratch:
    """Arrays that are used by one pass after the other.

    Attributes:
        bytes: held between calls.
    """

    def __init__(self) -> None:
        self._arrays: dict[torch.dtype, Any] = {}
        self._ahead: dict[tuple[int, tuple[str, ...]], Ahead] = {}
        self._sides: dict[tuple[int, ...], tuple[Sequence[SideTerm], dict[str, list[Factors]]]] = {}

    @property
    def bytes(self) -> int:
        return sum(int(array.nbytes) for array in self._arrays.values()) + sum(a.bytes for a in self._ahead.values())

    def take(self, lines: int, entries: int, like: Any) -> Any:
        """An array (lines, entries) of the dtype and device of `like`; valid until the next call."""
        held = self._arrays.get(like.dtype)
        if held is None or len(held) < lines * entries:
            held = self._arrays[like.dtype] = like.new_empty(lines * entries)
        return held[: lines * entries].view(lines, entries)

    def ahead(self, blocks: Sequence[Block], n: int) -> Ahead:
        """Room for some blocks of n branches; valid until the next pass of as many."""
        name = n, tuple(block.name for block in blocks)
        if name not in self._ahead:
            if len(self._ahead) >= KEPT:
                self._ahead.clear()
            self._ahead[name] = Ahead(blocks, n)
        return self._ahead[name]

    def views(self, terms: Sequence[SideTerm]) -> dict[str, list[Factors]]:
        """The factors of each matrix as products take them; side terms have the same arrays in pass after pass."""
        name = tuple(id(side) for term in terms for side in term)
        if name not in self._sides:
            if len(self._sides) >= KEPT:
                self._sides.clear()
            found = {block: [Factors(term.u[block], term.vt[block]) for term in terms] for block in terms[0].u}
            self._sides[name] = terms, found
        return self._sides[name][1]


class Factors:
    """U and V of a side term on one matrix, and their transposes.

    Args:
        u: (n, rows, k).
        vt: (k, columns), or (n, k, columns) where branches differ.

    Attributes:
        u, vt: as given; without n for a single branch, and where branches do not differ.
        ut, v: their transposes.
    """

    def __init__(self, u: Any, vt: Any) -> None:
        self.u, self.vt = (side[0] if side.dim() == 3 and len(u) == 1 else side for side in (u, vt))
        self.ut, self.v = self.u.transpose(-1, -2), self.vt.transpose(-1, -2)


class BranchWeights:
    """θ + d for each branch of one forward pass, numbered from 0.

    Vectors, and everything where little is trained, are formed at once; matrices a few rows at a time, or never where
    their directions have factors or differ by signs alone.

    Args:
        space: its arrays hold θ.
        directions: d of each branch.
        scratch: holds tiles while they are used.

    Attributes:
        count: branches n.
        probed: block name → the branches whose direction is not zero there.
    """

    def __init__(self, space: ParameterSpace, directions: Sequence[Direction], scratch: Scratch) -> None:
        self.count = len(directions)
        self.probed = _probed(space.blocks, directions)
        self._space, self._directions, self._scratch = space, directions, scratch
        self._points = space.points(directions)
        blocks = [block for block in space.blocks if self.probed[block.name]]
        is_little = self.count * sum(block.size for block in blocks) <= FORMED
        terms = [] if is_little else space.side_terms(directions) or []
        self._side_terms = scratch.views(terms) if terms else {}
        self._signed = None if is_little or terms else SignedBranches.of(space, directions, FORMED)
        self._formed = self._form_ahead(blocks if is_little else [b for b in blocks if len(b.shape) == 1])

    @property
    def places(self) -> Hashable | None:
        """All that a forward pass depends on besides what the arrays hold; None where it forms weights itself."""
        formed, terms = self._formed, self._side_terms
        if any(branches and name not in formed and name not in terms for name, branches in self.probed.items()):
            return None
        return id(formed) * bool(formed), id(terms) * bool(terms), self.count, tuple(map(tuple, self.probed.values()))

    @property
    def arrays(self) -> Any:
        """What a forward pass reads besides what the arrays of the space hold."""
        return self._formed, self._side_terms

    def formed(self, block: Block) -> Any:
        """(n, size of the block) where the weights of all branches are formed already, else None."""
        return self._formed.get(block.name)

    def of(self, branch: int, block: Block, stored: Any) -> Any:
        """θ + d of one branch, in the shape of the stored parameter; the parameter itself where d is zero there."""
        if block.name in self._formed:
            return self._formed[block.name][branch].view(stored.shape)
        if branch not in self.probed[block.name]:
            return stored
        whole = torch.empty_like(stored)
        self._points.write([Tile(block, 0, block.shape[0])], [branch], whole.view(1, -1))
        return whole

    def form(self, tiles: Sequence[Tile], branches: Sequence[int]) -> Any:
        """θ + d on some tiles for some branches, (branches, entries), in scratch: valid until the next call."""
        entries = sum(tile.size for tile in tiles)
        target = self._scratch.take(len(branches), entries, tiles[0].block.array)
        self._points.write(tiles, branches, target)
        return target

    def tiles(self, block: Block) -> Iterator[Tile]:
        """The rows of a block in pieces that can be formed at a time for all branches that probe it."""
        yield from block.tiles(FORMED // len(self.probed[block.name]))

    def side_terms(self, block: Block) -> list[Factors]:
        """The side terms on a matrix: none where no branch is other than θ, or its weights have to be formed."""
        return self._side_terms.get(block.name, [])

    def signed(self, block: Block) -> SignedBranches | None:
        """The directions of all branches on a matrix, where they differ by signs alone and nothing is formed."""
        return self._signed if self._signed and self._signed.covers(block) else None

    def _form_ahead(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Some blocks of all branches: (n, size) by name."""
        if not blocks:
            return {}
        ahead = self._scratch.ahead(blocks, self.count)
        for tiles, lines in ahead.parts:
            self._points.write(tiles, range(self.count), lines)
        return ahead.of


def _probed(blocks: Sequence[Block], directions: Sequence[Direction]) -> dict[str, list[int]]:
    """Name of each block → the directions that are not zero there."""
    everywhere = [i for i, direction in enumerate(directions) if any(draw.part is None for draw, _ in direction)]
    others = [i for i, direction in enumerate(directions) if direction and i not in everywhere]
    if not others:
        return dict.fromkeys((block.name for block in blocks), everywhere)
    return {block.name: sorted([*everywhere, *(i for i in others if directions[i].touches(block))]) for block in blocks}
