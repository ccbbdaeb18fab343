"""Products of the rows of all branches with the matrices of each: matrix products and embedding lookups.

A low-rank direction is a side term (xU)Vᵀ beside one product with θ that all branches share. Any other is formed a few
rows of the matrix at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from zoplat.core.blocks import Block, Tile
from zoplat_devices.pytorch.strategies.branch_weights import BranchWeights


def matrix_product(weights: BranchWeights, block: Block, stored: Any, x: Any, transposed: bool) -> Any:
    """The product x W of each branch, or x Wᵀ when `transposed`.

    Args:
        weights: of all branches.
        block: the matrix W.
        stored: θ of the matrix.
        x: (n, rows, in).
        transposed: as `torch.nn.functional.linear` takes its weight.

    Returns:
        (n, rows, out)
    """
    n = weights.count
    formed = weights.formed(block)
    if formed is not None:
        matrices = formed.view(n, *block.shape)
        return torch.bmm(x, matrices.transpose(1, 2) if transposed else matrices)
    matrix = stored.t() if transposed else stored
    probed = weights.probed[block.name]
    factors = weights.factors(block, x.dtype) if probed else None
    if factors is None and probed:
        return _formed_product(weights, block, matrix, x, transposed)
    y = torch.matmul(x, matrix)
    if factors is not None:
        u, v, coefficients = factors
        first, second = (v, u) if transposed else (u, v)
        side = torch.matmul(x, first).mul_(coefficients)
        y.view(-1, y.shape[-1]).addmm_(side.flatten(0, 1), second.t())
    return y


def _formed_product(weights: BranchWeights, block: Block, matrix: Any, x: Any, transposed: bool) -> Any:
    """The product where the matrices of the probing branches are formed a few rows at a time."""
    probed = weights.probed[block.name]
    y = x.new_empty(weights.count, x.shape[1], matrix.shape[1])
    others = [branch for branch in range(weights.count) if branch not in probed]
    if others:
        y[_selected(others)] = torch.matmul(x[_selected(others)], matrix)
    chosen = _selected(probed)
    for tile in weights.tiles(block):
        formed = weights.form([tile], probed).view(len(probed), *tile.shape)
        if transposed:
            y[chosen, :, tile.start : tile.stop] = torch.bmm(x[chosen], formed.transpose(1, 2))
        else:
            term = torch.bmm(x[chosen][:, :, tile.start : tile.stop], formed)
            y[chosen] = term if tile.start == 0 else y[chosen] + term
    return y


def embedding(weights: BranchWeights, block: Block, ids: Any) -> Any:
    """Rows of an embedding in each branch; only the rows that are needed are formed.

    Args:
        weights: of all branches.
        block: the embedding.
        ids: (n, tokens).

    Returns:
        (n, tokens, width)
    """
    n, probed = weights.count, weights.probed[block.name]
    formed = weights.formed(block)
    if formed is not None:
        matrices = formed.view(n, *block.shape)
        return torch.stack([functional.embedding(ids[branch], matrices[branch]) for branch in range(n)])
    found = functional.embedding(ids, block.array)
    factors = weights.factors(block, found.dtype) if probed else None
    if factors is not None:
        u, v, coefficients = factors
        rows = functional.embedding(ids, u).mul_(coefficients)
        found.view(-1, found.shape[-1]).addmm_(rows.flatten(0, 1), v.t())
    elif probed:
        chosen = _selected(probed)
        needed, where = torch.unique(ids[chosen], return_inverse=True)
        tiles = [Tile(block, row, row + 1) for row in needed.tolist()]
        rows = weights.form(tiles, probed).view(len(probed), len(tiles), -1)
        found[chosen] = rows[torch.arange(len(probed), device=ids.device)[:, None], where]
    return found


def _selected(branches: Sequence[int]) -> Any:
    """An index for some branches: a slice where they are consecutive, for views in place of copies."""
    first, last = branches[0], branches[-1]
    return slice(first, last + 1) if last - first + 1 == len(branches) else list(branches)
