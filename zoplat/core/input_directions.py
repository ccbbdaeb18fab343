"""Leading directions of the inputs of linear layers: right singular vectors of what a layer reads, in parts.

What is known of a part of a batch are rows B with BᵀB ≈ HᵀH for its inputs H, (tokens, features): its leading singular
vectors vₖ, each as long as its singular value. Rows of all parts, one below the other, have the Gram matrix of the
whole. Plain Python, so that ranks on any machines come to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import copysign, sqrt
from operator import mul
from typing import TypeAlias

from zoplat.core.blocks import Block

Rows: TypeAlias = "Sequence[Sequence[float]]"
LossAndRows: TypeAlias = "tuple[float, Mapping[str, Rows]]"
"""The loss of a batch, and rows by name of the matrix."""
DECIMALS = 5
"""Of the numbers of a direction, to keep journals small; it is then off by 3·10⁻⁶ times the root of the features."""
LEAST = 1e-5
"""Singular values below this share of the largest are rounding errors, whose vectors mean nothing."""
SWEEPS = 8
"""Of Jacobi's method, which converges quadratically: a few are enough for a few dozen rows."""


def count(shape: Sequence[int], rank: int) -> int:
    """Directions of a matrix of this shape: as many as are asked for, where it has as many rows and columns."""
    return min(rank, *shape)


def leading(parts: Sequence[Rows]) -> Rows:
    """Rows of several parts → as many as the first has, orthogonal, those of the largest singular values, in order.

    By the eigenvectors of the small Gram matrix BBᵀ, which Jacobi's rotations make diagonal.
    """
    if len(parts) == 1:
        return parts[0]
    rows = [[*row] for part in parts for row in part]
    gram = [[sum(map(mul, one, other)) for other in rows] for one in rows]
    turned = [[float(i == j) for j in range(len(rows))] for i in range(len(rows))]
    for i, j in [*combinations(range(len(rows)), 2)] * SWEEPS:
        if gram[i][j] != 0.0:
            tau = (gram[j][j] - gram[i][i]) / (2 * gram[i][j])
            tangent = copysign(1.0, tau) / (abs(tau) + sqrt(1 + tau * tau))
            cosine = 1 / sqrt(1 + tangent * tangent)
            sine = tangent * cosine
            for matrix in (turned, gram):
                pairs = [*zip(matrix[i], matrix[j], strict=True)]
                matrix[i] = [cosine * x - sine * y for x, y in pairs]
                matrix[j] = [sine * x + cosine * y for x, y in pairs]
            for row in gram:
                row[i], row[j] = cosine * row[i] - sine * row[j], sine * row[i] + cosine * row[j]
    largest = sorted(range(len(rows)), key=lambda k: -gram[k][k])[: len(parts[0])]
    columns = [*zip(*rows, strict=True)]
    return [[sum(map(mul, turned[k], column)) for column in columns] for k in largest]


def merged(parts: Sequence[Mapping[str, Rows]]) -> dict[str, Rows]:
    """Rows by name of the matrix, from those of several parts of a batch, in each of which some may be missing."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: leading([part[name] for part in parts if name in part]) for name in names}


def of_all(blocks: Sequence[Block], rank: int, known: Mapping[str, Rows]) -> dict[str, Rows]:
    """Rows of every matrix, in order; zeros where none are known."""
    return {
        block.name: known.get(block.name) or [[0.0] * block.shape[1]] * count(block.shape, rank)
        for block in blocks
        if len(block.shape) == 2
    }


def directions_of(blocks: Sequence[Block], rank: int, known: Mapping[str, Rows]) -> dict[str, Rows]:
    """Directions of every matrix, of length 1 and rounded; zeros for what it does not have, or where it is unknown."""
    found = of_all(blocks, rank, known)
    return {name: [_direction(row, rows[0]) for row in rows] for name, rows in found.items()}


def numbers_in(rows: Mapping[str, Rows]) -> list[float]:
    """All numbers, in order."""
    return [x for each in rows.values() for row in each for x in row]


def _direction(row: Sequence[float], longest: Sequence[float]) -> list[float]:
    length, most = (sqrt(sum(map(mul, each, each))) for each in (row, longest))
    if length <= LEAST * most:
        return [0.0 for _ in row]
    return [round(x / length, DECIMALS) + 0.0 for x in row]
