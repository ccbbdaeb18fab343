"""What the fused kernels are told: jobs over stretches of weights, and the terms that they add up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoplat.core.noise import Stream
from zoplat_devices.kernels.traced import Program

TERM = np.dtype(
    [
        ("kind", np.int32),
        ("rank", np.int32),
        ("key0", np.uint32),
        ("key1", np.uint32),
        ("coefficient", np.float32),
        ("columns", np.int32),
        ("u", np.int64),
        ("v", np.int64),
        ("scale", np.int64),
        ("by_root", np.int64),
    ]
)
"""`Term` of kernels.c."""

JOB = np.dtype(
    [
        ("source", np.int64),
        ("target", np.int64),
        ("start", np.int64),
        ("stop", np.int64),
        ("line", np.int32),
        ("dtype", np.int32),
    ]
)
"""`Job` of kernels.c."""

TERMS = {"normal": 0, "sign": 1, "uniform": 2, "low-rank": 3, "values": 4, "coarse": 5}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
FROM_FLOAT32 = {"bfloat16": 3, "float16": 4}
SUM = 5
"""In the place of a dtype: the terms alone, in float32."""


class Jobs:
    """Jobs that come again, pass after pass.

    Attributes:
        rows: of `JOB`.
        copy: what kernels have made of them for their device.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.copy: Any = None


class Sums:
    """Terms that are added up: a line for each block, or for each of several points of one.

    Attributes:
        terms: (lines, most) of `TERM`.
        counts: terms of each line.
        fused: for each line, whether the kernels can draw all of it.
        held: whoever has the arrays that terms point to.
        copy: what kernels have made of them for their device.
    """

    def __init__(self, lines: int, most: int) -> None:
        self.terms = np.zeros((lines, most), TERM)
        self.counts = np.zeros(lines, np.int32)
        self.fused = np.ones(lines, bool)
        self.held: list[Any] = []
        self.copy: Any = None

    @classmethod
    def interleaved(cls, parts: Sequence[Sums]) -> Sums:
        """The first line of each, then the second of each, and so on."""
        made = cls(len(parts) * len(parts[0].counts), max(part.terms.shape[1] for part in parts))
        for i, part in enumerate(parts):
            made.terms[i :: len(parts), : part.terms.shape[1]] = part.terms
            made.counts[i :: len(parts)] = part.counts
            made.fused[i :: len(parts)] = part.fused
            made.held += part.held
        return made

    def add(self, lines: Any, terms: Any, are_fused: Any, c: float) -> None:
        """One more term on some lines."""
        places = self.counts[lines]
        self.terms[lines, places] = terms
        self.terms["coefficient"][lines, places] = c
        self.fused[lines] &= are_fused
        self.counts[lines] += 1


class Kernels(ABC):
    """Whoever draws, scales and adds in registers, on the arrays of one kind of device.

    Attributes:
        rules: whether they run rules too.
    """

    rules: bool = False

    @abstractmethod
    def run(
        self,
        jobs: Jobs,
        sums: Sums,
        keep: float = 1.0,
        base: int = 0,
        is_stochastic: bool = False,
        which: slice | None = None,
    ) -> None:
        """Target ← keep·source + the sum of a job's line.

        Args:
            jobs: to be done in any order.
            sums: their lines.
            keep: factor of what is there.
            base: address from which targets are counted.
            is_stochastic: whether 16-bit weights are rounded by the stream of the term after the last of a line.
            which: some jobs of one dtype that follow one another; all when None.
        """

    def rule(
        self, jobs: Jobs, moves: Sums, keep: float, direction: Sums, program: Program, arrays: Sequence[int]
    ) -> None:
        """Bring float32 weights to keep·θ + moves and run a traced rule on them, in one pass; where `rules` says so.

        Args:
            jobs: on one block, in place.
            moves: a line.
            keep: factor of what is there.
            direction: a line.
            program: of the rule; its arrays are θ, the entries of the direction, and the others.
            arrays: where those begin, 0 for one that is not there.
        """
        raise NotImplementedError

    @abstractmethod
    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        """Write numbers `first` to `first` + `count` of a stream, float32, to an address."""


def address(array: Any) -> int:
    """Where a contiguous array of numpy or torch begins."""
    pointer = array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data
    return int(pointer)
