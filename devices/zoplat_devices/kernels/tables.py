"""Tables that fused kernels read: jobs over ranges of weights, and the terms that are summed for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from zoplat.core.blocks import TILE
from zoplat.core.noise import Stream
from zoplat_devices.kernels.traced import Program

if TYPE_CHECKING:
    from zoplat_devices.kernels.queue import Queue

DRAWS = 4
"""Streams that one term has room for."""

TERM = np.dtype(
    [
        ("kind", np.int32),
        ("rank", np.int32),
        ("keys", np.uint32, (DRAWS, 2)),
        ("coefficient", np.float32),
        ("columns", np.int32),
        ("u", np.int64),
        ("v", np.int64),
        ("scale", np.int64),
        ("inverse_root", np.int64),
    ]
)
"""`Term` of kernels.c: a coefficient times one random vector."""

JOB = np.dtype(
    [
        ("source", np.int64),
        ("target", np.int64),
        ("start", np.int64),
        ("stop", np.int64),
        ("line", np.int32),
        ("dtype", np.int32),
        ("columns", np.int64),
    ]
)
"""`Job` of kernels.c: a range of entries to be written."""

TERMS = {"normal": 0, "sign": 1, "uniform": 2, "low-rank": 3, "values": 4, "coarse": 5, "computed": 6}
"""Name of a term's kind → its number in kernels.c."""
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "uint4": 7}
FROM_FLOAT32 = {"bfloat16": 3, "float16": 4}
SUM, TURNED, PROBED = 5, 6, 8
"""Conversion opcodes of a job: source and target of one dtype, or of codes in place the residual and the codes; a
float32 source; no source, the sum in float32; the sum with rows and columns exchanged, only for kernels that prefer few
calls: the one term has the length of rows in `v` and their number in `inverse_root`; codes to another array."""


def term(kind: str, streams: Sequence[Stream] = (), **fields: Any) -> np.ndarray:
    """One row of `TERM`, with coefficient 0.

    Args:
        kind: of `TERMS`.
        streams: at most `DRAWS`.
        fields: of the row; 0 where they are not given.
    """
    row = np.zeros(1, TERM)
    row["kind"] = TERMS[kind]
    for number, keys in enumerate(streams):
        row["keys"][0, number] = keys
    for name, value in fields.items():
        row[name] = value
    return row


class Jobs:
    """A table of jobs, reused from pass to pass.

    Attributes:
        rows: of `JOB`.
        uploaded: the copy that kernels keep on their device; None until there is one.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.uploaded: Any = None


class Sums:
    """A table of sums of terms: a line for each block, or for each of several points and blocks.

    Args:
        lines: number of lines.
        stride: terms that a line has room for.

    Attributes:
        terms: (lines, stride) of `TERM`.
        counts: terms in use of each line.
        fused: for each line, whether the kernels can draw all of its terms.
        owners: keep the arrays alive that terms point to.
        uploaded: the copy that kernels keep on their device; None until there is one.
    """

    def __init__(self, lines: int, stride: int) -> None:
        self.terms = np.zeros((lines, stride), TERM)
        self.counts = np.zeros(lines, np.int32)
        self.fused = np.ones(lines, bool)
        self.owners: list[Any] = []
        self.uploaded: Any = None

    @classmethod
    def interleaved(cls, parts: Sequence[Sums]) -> Sums:
        """The first line of each table, then the second of each, and so on."""
        made = cls(len(parts) * len(parts[0].counts), max(part.terms.shape[1] for part in parts))
        for i, part in enumerate(parts):
            made.terms[i :: len(parts), : part.terms.shape[1]] = part.terms
            made.counts[i :: len(parts)] = part.counts
            made.fused[i :: len(parts)] = part.fused
            made.owners += part.owners
        return made

    @classmethod
    def single(cls, rows: Sequence[np.ndarray]) -> Sums:
        """A line for each of some terms, rows of `TERM`, with coefficient 1."""
        made = cls(len(rows), 1)
        if rows:
            made.terms[:, 0] = np.concatenate(rows)
            made.terms["coefficient"] = made.counts[:] = 1
        return made

    def add(self, lines: Any, terms: Any, are_fused: Any, c: float) -> None:
        """Append a term to some lines.

        Args:
            lines: their numbers.
            terms: a row of `TERM` for each.
            are_fused: for each, whether the kernels can draw it.
            c: coefficient of all of them.
        """
        slots = self.counts[lines]
        self.terms[lines, slots] = terms
        self.terms["coefficient"][lines, slots] = c
        self.fused[lines] &= are_fused
        self.counts[lines] += 1


class Kernels(ABC):
    """Fused kernels of one kind of device, which draw, scale and add in registers.

    Attributes:
        moves_codes: whether weights may be codes of 4 bits.
        runs_rules: whether they can also run a traced rule.
        prefers_few_calls: whether rules and factors are to be done for all blocks at once, as launches are dear.
        reads_at_once: about how many entries a reduction reads at a time.
        queues: whether moves can be queued.
        queue: takes moves in place of performing them; None where they are performed at once.
    """

    moves_codes: bool = False
    runs_rules: bool = False
    prefers_few_calls: bool = False
    reads_at_once: int = TILE
    queues: bool = False
    queue: Queue | None = None

    @property
    def table_bytes(self) -> int:
        """Bytes of the tables that are kept on the device."""
        return 0

    @abstractmethod
    def run(
        self,
        jobs: Jobs,
        sums: Sums,
        factor: float = 1.0,
        origin: int = 0,
        is_stochastic: bool = False,
        subset: slice | None = None,
    ) -> None:
        """Target ← factor·source + the sum of the job's line.

        Args:
            jobs: to be done in any order.
            sums: the table of their lines.
            factor: of the source.
            origin: address that targets are relative to.
            is_stochastic: whether 16-bit weights are rounded stochastically, with the stream that the term after the
                last one in use of a line names.
            subset: a range of jobs of one dtype; all jobs when None.
        """

    def move(self, jobs: Jobs, sums: Sums, factor: float = 1.0, is_stochastic: bool = False) -> None:
        """`run` on weights in place; may be queued."""
        self.run(jobs, sums, factor, is_stochastic=is_stochastic)

    def send_queued(self, sums: Sums, factor: float = 1.0, then: Callable[[], None] = lambda: None) -> Any:
        """Queue the sending of some sums for what follows; `then` is called when they are there; where it `queues`."""
        raise NotImplementedError

    def recording(self) -> AbstractContextManager[None]:
        """Around work that is being recorded: nothing may be sent then, as a replay would send the same again."""
        return nullcontext()

    def rule(
        self,
        jobs: Jobs,
        update: Sums,
        factor: float,
        direction: Sums,
        program: Program,
        arrays: np.ndarray,
        is_stochastic: bool = False,
    ) -> None:
        """Bring weights to factor·θ + update and run a traced rule on them, in one pass; where `runs_rules`.

        Args:
            jobs: in place.
            update: added to the weights before the rule runs, not rounded in between.
            factor: of the weights.
            direction: the second array of the rule; lines are those of the update.
            program: of the rule; its arrays are θ, the entries of the direction, and float32 buffers.
            arrays: addresses of the buffers for each line, (lines, buffers); 0 for one that does not cover the block.
            is_stochastic: whether 16-bit weights are rounded stochastically, as in `run`, with streams of the update.
        """
        raise NotImplementedError

    @abstractmethod
    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        """Write random numbers `first` to `first` + `count` of a stream under a law, float32, to address `out`."""


def address(array: Any) -> int:
    """Address of the first byte of a contiguous numpy array or torch tensor."""
    pointer = array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data
    return int(pointer)
