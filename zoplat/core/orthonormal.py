"""Orthonormal rows."""

from __future__ import annotations

from zoplat.core.arrays import Array


def orthonormal(a: Array) -> Array:
    """The rows of `a`, (r, n) with r ≤ n, made orthonormal in place, from the first to the last.

    Gram–Schmidt, each row cleared twice of those before it, which leaves them orthogonal to rounding. Rows that
    were Gaussian become uniform over all orthonormal sets of rows.
    """
    for k in range(a.shape[0]):
        row, before = a[k : k + 1], a[:k]
        for _ in range(2):
            row -= (row @ before.T) @ before
        row /= (row * row).sum() ** 0.5
    return a
