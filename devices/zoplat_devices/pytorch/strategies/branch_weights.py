"""The weights of all branches of a batched forward pass: θ + d for each of several d, formed beside the stored θ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Direction
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.parameters import tensor_of

FORMED = 1 << 22
"""Entries of weights that are formed at a time, over all branches: about what a last-level cache holds."""


class Scratch:
    """One reusable array for each dtype.

    Attributes:
        bytes: held between calls.
    """

    def __init__(self) -> None:
        self._arrays: dict[torch.dtype, Any] = {}

    @property
    def bytes(self) -> int:
        return sum(int(array.nbytes) for array in self._arrays.values())

    def take(self, lines: int, entries: int, like: Any) -> Any:
        """An array (lines, entries) of the dtype and device of `like`; valid until the next call."""
        held = self._arrays.get(like.dtype)
        if held is None or len(held) < lines * entries:
            held = self._arrays[like.dtype] = like.new_empty(lines * entries)
        return held[: lines * entries].view(lines, entries)


class BranchWeights:
    """θ + d for each branch of one forward pass, numbered from 0.

    Vectors, and everything where little is trained, are formed at once; matrices a few rows at a time, or never where
    their directions have factors.

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
        self.probed = {
            block.name: [i for i, direction in enumerate(directions) if direction.touches(block)]
            for block in space.blocks
        }
        self._space, self._directions, self._scratch = space, directions, scratch
        self._points = space.points(directions)
        blocks = [block for block in space.blocks if self.probed[block.name]]
        is_little = self.count * sum(block.size for block in blocks) <= FORMED
        self._side_terms = [] if is_little else space.side_terms(directions) or []
        self._formed = self._form_ahead(blocks if is_little else [b for b in blocks if len(b.shape) == 1])

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

    def side_terms(self, block: Block) -> list[tuple[Any, Any]]:
        """(U, V) of each side term on a matrix: (n, rows, k), and (columns, k) or (n, columns, k).

        Empty where no branch is other than θ, or the weights of the branches have to be formed.
        """
        return [(term.u[block.name], term.v[block.name]) for term in self._side_terms if block.name in term.u]

    def _form_ahead(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Some blocks of all branches: (n, size) by name."""
        formed = {}
        for dtype in {tensor_of(block).dtype for block in blocks}:
            alike = [block for block in blocks if tensor_of(block).dtype == dtype]
            lines = tensor_of(alike[0]).new_empty(self.count, sum(block.size for block in alike))
            self._points.write([Tile(block, 0, block.shape[0]) for block in alike], range(self.count), lines)
            for block, line in zip(alike, lines.split([block.size for block in alike], dim=1), strict=True):
                formed[block.name] = line
        return formed
