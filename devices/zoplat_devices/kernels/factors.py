"""The factors of many matrices, drawn by one call of the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from zoplat_devices.kernels.laws import Fill
from zoplat_devices.kernels.tables import JOB, SUM, TURNED, Jobs, Kernels, Sums, address, term

KEPT = 8
"""Tables of jobs that are kept, for as many sets of shapes or places."""

Shaped = tuple[tuple[int, int], Fill]
"""Shape of a factor, and what filling it takes."""


class Factors:
    """Draws factors of many matrices at once.

    Args:
        kernels: of the device.
        empty: (shape, dtype) → a new array of the device.
    """

    def __init__(self, kernels: Kernels, empty: Callable[[tuple[int, ...], str], Any]) -> None:
        self._kernels, self._empty = kernels, empty
        self._jobs: dict[Hashable, Any] = {}

    def drawn(self, wanted: Sequence[tuple[Shaped, Shaped]]) -> tuple[Any, list[tuple[Any, Any]]]:
        """Draw U and V for each matrix.

        Args:
            wanted: shape and filling of U, (rows, r), and of V, (columns, r).

        Returns:
            (all numbers in one array, for each matrix U and Vᵀ as contiguous views of it).
        """
        shapes = tuple(shape for pair in wanted for shape, _ in pair)
        jobs, begins = self._once(shapes, lambda: _jobs(shapes))
        parts = (part for pair in wanted for part in pair)
        sums = Sums.single([filling(fill, v=rank, inverse_root=length) for (length, rank), fill in parts])
        whole = self._empty((begins[-1],), "float32")
        self._kernels.run(jobs, sums, origin=address(whole))
        arrays = [whole[a : a + n * r] for a, (n, r) in zip(begins, shapes, strict=False)]
        pairs = []
        for k in range(0, len(arrays), 2):
            columns, rank = shapes[k + 1]
            pairs.append((arrays[k].reshape(shapes[k]), arrays[k + 1].reshape(rank, columns)))
        return whole, pairs

    def fill(self, asked: Sequence[tuple[Fill, Any]]) -> None:
        """Fill float32 arrays, each with random numbers and what is computed with them."""
        places = tuple((address(array), math.prod(array.shape)) for _, array in asked)
        sums = Sums.single([filling(fill) for fill, _ in asked])
        self._kernels.run(self._once(places, lambda: _jobs_at(places)), sums)

    def _once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """Jobs of a name, kept from draw to draw."""
        if name not in self._jobs:
            if len(self._jobs) == KEPT:
                self._jobs.pop(next(iter(self._jobs)))
            self._jobs[name] = make()
        return self._jobs[name]


def filling(fill: Fill, **fields: Any) -> np.ndarray:
    """The term of what filling an array takes, a row of `TERM`; with other fields as they are given."""
    if fill.law is not None:
        fields |= {"rank": fill.law.number, "columns": len(fill.law.table), "u": address(fill.law.table)}
    return term(fill.kind, fill.streams, **fields)


def _jobs(shapes: Sequence[tuple[int, int]]) -> tuple[Jobs, list[int]]:
    """Jobs that fill arrays in turn, every second one turned, from multiples of 16 bytes on; and where each begins."""
    sizes = [rows * rank for rows, rank in shapes]
    begins = np.cumsum([0, *(-(-size // 4) * 4 for size in sizes)])
    rows = np.zeros(len(shapes), JOB)
    rows["target"], rows["stop"], rows["line"] = 4 * begins[:-1], sizes, np.arange(len(shapes))
    rows["dtype"][0::2], rows["dtype"][1::2] = SUM, TURNED
    return Jobs(rows), begins.tolist()


def _jobs_at(places: Sequence[tuple[int, int]]) -> Jobs:
    """Jobs that fill arrays: the address and the size of each."""
    rows = np.zeros(len(places), JOB)
    rows["target"], rows["stop"] = np.array(places, np.int64).reshape(-1, 2).T
    rows["line"], rows["dtype"] = np.arange(len(places)), SUM
    return Jobs(rows)
