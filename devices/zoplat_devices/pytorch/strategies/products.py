"""Products of the rows of all branches with the matrices of each: matrix products and embedding lookups.

Directions of low rank are side terms (xV)Uᵀ beside one product that all branches share; those that differ by signs
alone are one more product (`signed`). Any other is formed a few rows of the matrix at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from zoplat.core.blocks import Block, Tile
from zoplat_devices.pytorch.strategies.branch_weights import BranchWeights, Factors
from zoplat_devices.pytorch.strategies.signed import distinct


def matrix_product(weights: BranchWeights, block: Block, stored: Any, x: Any, transposed: bool, bias: Any) -> Any:
    """The product x W + b of each branch, or x Wᵀ + b when `transposed`.

    Side terms come first, with the bias, and the product with θ is added to them: so no pass over the result is made
    for them alone.

    Args:
        weights: of all branches.
        block: the matrix W.
        stored: θ of the matrix.
        x: (n, rows, in).
        transposed: as `torch.nn.functional.linear` takes its weight.
        bias: b, (out) or (n, 1, out); None without.

    Returns:
        (n, rows, out)
    """
    n, terms, signed = weights.count, weights.side_terms(block), weights.signed(block)
    matrix = stored.t() if transposed else stored
    if terms or signed:
        rows, y = x.reshape(-1, x.shape[-1]), bias
        for term in terms:
            y = _with_side_term(x, rows, term, transposed, y)
        if signed:
            y = signed.product(block, x, transposed)
            y = y if bias is None else y.add_(bias)
        y.view(-1, y.shape[-1]).addmm_(rows, matrix)
        return y
    formed = weights.formed(block)
    if formed is not None:
        matrices = formed.view(n, *block.shape)
        y = torch.bmm(x, matrices.transpose(1, 2) if transposed else matrices)
    elif weights.probed[block.name]:
        y = _formed_product(weights, block, matrix, x, transposed)
    else:
        y = torch.matmul(x, matrix)
    return y if bias is None else y.add_(bias)


def _with_side_term(x: Any, rows: Any, term: Factors, transposed: bool, y: Any) -> Any:
    """Add x U Vᵀ of each branch to y, or x V Uᵀ when `transposed`.

    Args:
        x: (n, rows, in).
        rows: the same as (n · rows, in).
        term: the factors.
        transposed: as `torch.nn.functional.linear` takes its weight.
        y: (out), (n, 1, out) or (n, rows, out); None for zero.

    Returns:
        (n, rows, out), contiguous
    """
    n = len(x)
    second = term.ut if transposed else term.vt
    if transposed and term.vt.dim() == 2:  # in this order, it takes a quarter of the time
        t = torch.mm(term.vt, rows.t()).t()
    elif transposed or n > 1:
        t = torch.bmm(x, term.v if transposed else term.u)
    else:
        t = torch.mm(rows, term.u)
    if n == 1:
        y = y[0] if y is not None and y.dim() == 3 else y
        return (torch.mm(t, second) if y is None else torch.addmm(y, t, second)).unsqueeze(0)
    t = t.unflatten(0, (n, -1)) if t.dim() == 2 else t
    second = second.expand(n, *second.shape) if second.dim() == 2 else second
    return torch.bmm(t, second) if y is None else torch.baddbmm(y, t, second)


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
    terms = weights.side_terms(block)
    for term in terms:
        each = term.u[ids] if n == 1 else torch.stack([functional.embedding(ids[i], term.u[i]) for i in range(n)])
        found += each @ term.vt
    if signed := weights.signed(block):
        found += signed.rows(block, ids, found)
    elif not terms and probed:
        chosen = _selected(probed)
        needed, where = distinct(ids[chosen])
        tiles = [Tile(block, row, row + 1) for row in needed]
        rows = weights.form(tiles, probed).view(len(probed), len(tiles), -1)
        found[chosen] = rows[torch.arange(len(probed), device=ids.device)[:, None], where]
    return found


def _selected(branches: Sequence[int]) -> Any:
    """An index for some branches: a slice where they are consecutive, for views in place of copies."""
    first, last = branches[0], branches[-1]
    return slice(first, last + 1) if last - first + 1 == len(branches) else list(branches)
