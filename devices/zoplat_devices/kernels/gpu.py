"""The kernels of `gpu_kernels.py`: one copy for each pass, and one launch for each dtype and structure of terms."""

from __future__ import annotations

import importlib.util
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from zoplat.core.noise import Stream
from zoplat_devices.kernels.gpu_link import Link
from zoplat_devices.kernels.gpu_source import Sources, words_of_constants
from zoplat_devices.kernels.gpu_tables import (
    GROUP,
    MANY,
    MIXED,
    TILE,
    Batch,
    Structure,
    batches,
    lines_of,
    lines_of_rule,
    words_of,
)
from zoplat_devices.kernels.tables import DTYPES, TERMS, Jobs, Kernels, Sums
from zoplat_devices.kernels.traced import Program

PINNED = {"enable_fp_fusion": False, "sanitize_overflow": False, "num_warps": 4}
"""Launch options that pin every bit: no fusion of products and sums, integers wrap around."""

NARROW = (DTYPES["bfloat16"], DTYPES["float16"])
RULE_CONSTANTS = ("kind", "count", "has_scales", "other_kind", "other_count", "other_scales")
OLDEST = (3, 6)
"""Oldest version of Triton whose kernels have the right bits. In divisions and roots 3.4 and 3.5 take subnormal
numbers for zero, and 3.2 and 3.3 can't compile the kernels (docs/how-to/gpu.md)."""
STRUCTURES = 64
"""Structures that are kept, with their rooms on the device."""


class _RuleLaunches(NamedTuple):
    """Launches of one rule on some jobs, and the room for its constants and addresses."""

    launches: list[_Launch]
    room: Any


class _Launch(NamedTuple):
    """One launch: a program, how many of it, and the tables and constants that are the same every time."""

    program: Any
    grid: tuple[int]
    tables: tuple[Any, Any]
    constants: dict[str, Any]

    def start(self, structure: Structure, origin: int) -> None:
        """Launch it on the numbers that the room of a structure has; targets are relative to `origin`."""
        self.program[self.grid](*self.tables, structure.room, origin, structure.stride, **self.constants)

    def on(self, structure: Structure) -> Callable[[Any], None]:
        """As a step of a queue, in place."""
        return lambda words: self.start(structure, 0)


class TritonKernels(Kernels):
    """Kernels in Triton, launched on the current stream of a device.

    Args:
        device: torch device that holds the weights.
        programs: the module `gpu_kernels`.

    Attributes:
        link: the way of tables to the device.
    """

    runs_rules = prefers_few_calls = queues = True
    reads_at_once = 1 << 22  # some 50 MiB of scratch in float32 and float64

    def __init__(self, device: Any, programs: ModuleType) -> None:
        self.device = device
        self.link = Link(device)
        self._programs = programs
        self._sources = Sources(programs)
        self._structures: OrderedDict[bytes, Structure] = OrderedDict()
        self._on_card: Callable[[], AbstractContextManager[Any]] = _on_card(device)

    @property
    def table_bytes(self) -> int:
        return self.link.bytes

    def run(
        self,
        jobs: Jobs,
        sums: Sums,
        factor: float = 1.0,
        origin: int = 0,
        is_stochastic: bool = False,
        subset: slice | None = None,
    ) -> None:
        rows = jobs.rows if subset is None else jobs.rows[subset]
        if not len(rows):
            return
        structure = self._sent(sums, factor)
        name = (is_stochastic, origin % 16, subset and (subset.start, subset.stop))
        with self._on_card():
            for launch in self._launches(jobs, rows, structure, name):
                launch.start(structure, origin)

    def move(self, jobs: Jobs, sums: Sums, factor: float = 1.0, is_stochastic: bool = False) -> None:
        queue = self.queue
        if queue is None:
            self.run(jobs, sums, factor, is_stochastic=is_stochastic)
        elif len(jobs.rows):
            structure = self.send_queued(sums, factor)
            for launch in self._launches(jobs, jobs.rows, structure, (is_stochastic, 0, None)):
                queue.add(("launch", id(launch)), launch.on(structure), keeps=launch)

    def send_queued(self, sums: Sums, factor: float = 1.0, then: Callable[[], None] = lambda: None) -> Structure:
        structure = sums.uploaded = sums.uploaded or self._structure(sums, "update")

        def note() -> None:
            structure.note(sums, factor)
            then()

        assert self.queue is not None
        self.queue.send(structure, words_of(sums, factor), note)
        return structure

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
        moved, entries = self._sent(update, factor), self._sent(direction, purpose="direction")
        known, are_there = _known(jobs, moved), tuple((arrays != 0).any(axis=0).tolist())
        name = (program.form(), are_there, is_stochastic, entries, int((arrays & 15).any()))
        words = np.zeros(words_of_constants(len(program.steps)) + arrays.size, np.int64)
        words.view(np.float32)[: len(program.steps)] = [step[4] for step in program.steps]
        words[len(words) - arrays.size :] = arrays.reshape(-1)
        if name not in known:
            launches = []
            function = self._sources.rule(program, are_there, sorted({*moved.laws, *entries.laws}))
            lines = lines_of_rule(moved, entries)
            for batch in batches(jobs.rows, lines, False, name[-1]):
                line = {each: int(batch.line[each]) for each in RULE_CONSTANTS}
                line["is_stochastic"] = is_stochastic and batch.dtype in NARROW
                launches.append(self._launch(batch, function, line))
            known[name] = _RuleLaunches(launches, self.link.room(len(words)))
        made = known[name]
        self.link.send(words, made.room)
        with self._on_card():
            for launch in made.launches:
                given = (*launch.tables, moved.room, entries.room, made.room, moved.stride, entries.stride)
                launch.program[launch.grid](*given, **launch.constants)

    @contextmanager
    def recording(self) -> Iterator[None]:
        self.link.is_closed = True
        try:
            yield
        finally:
            self.link.is_closed = False

    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        groups = -(-(first + count) // GROUP) - first // GROUP
        grid = (-(-groups * GROUP // TILE),)
        with self._on_card():
            self._programs.numbers[grid](out, *stream, first, count, TERMS[law], **PINNED)

    def _sent(self, sums: Sums, factor: float = 1.0, purpose: str = "update") -> Structure:
        """The structure of some sums, with their numbers in its room; rooms of different purposes differ."""
        structure: Structure | None = sums.uploaded
        if structure is None or not structure.holds(sums, factor):
            structure = sums.uploaded = self._structure(sums, purpose)
            self.link.send(words_of(sums, factor), structure.room)
            structure.note(sums, factor)
        return structure

    def _structure(self, sums: Sums, purpose: str) -> Structure:
        """The structure of some sums, the same one for equal structures."""
        lines, laws = lines_of(sums)
        name = lines.tobytes() + repr((sums.terms.shape, laws, purpose)).encode()
        if name not in self._structures:
            if len(self._structures) == STRUCTURES:
                self._structures.popitem(last=False)
            room = self.link.room(len(words_of(sums, 1.0)))
            self._structures[name] = Structure(lines, sums.terms.shape[1], laws, room)
        self._structures.move_to_end(name)
        return self._structures[name]

    def _launches(
        self, jobs: Jobs, rows: np.ndarray, structure: Structure, name: tuple[bool, int, Any]
    ) -> list[_Launch]:
        """The launches of some jobs, made once.

        Args:
            jobs: the table that they are kept with.
            rows: those of its rows that are done.
            structure: of the sums.
            name: whether rounding is stochastic, the origin modulo 16, and which rows.
        """
        known = _known(jobs, structure)
        if name not in known:
            known[name] = self._cut(rows, structure, *name[:2])
        launches: list[_Launch] = known[name]
        return launches

    def _cut(self, rows: np.ndarray, structure: Structure, is_stochastic: bool, origin: int) -> list[_Launch]:
        """Cut jobs into pieces, and send the tables of these."""
        made = []
        for batch in batches(rows, structure.lines, not is_stochastic, origin):
            if batch.in_factors:
                constants = factor_options(int(batch.line["rank"]), int(batch.line["count"]), batch.dtype)
                made.append(self._launch(batch, self._programs.move_factors, constants))
                continue
            kind = int(batch.line["kind"])
            program = self._sources.move(structure.laws if kind in (MIXED, TERMS["computed"]) else ())
            constants = {"kind": kind, "has_scales": int(batch.line["has_scales"])}
            constants["is_stochastic"] = is_stochastic and batch.dtype in NARROW
            made.append(self._launch(batch, program, constants))
        return made

    def _launch(self, batch: Batch, program: Any, constants: dict[str, Any]) -> _Launch:
        """A launch of a batch, whose tables are sent now."""
        import torch

        words = batch.words()
        room = self.link.room(len(words))
        self.link.send(words, room)
        tables = room[batch.owner_words :], room[: batch.owner_words].view(torch.int32)
        usual = {"count": int(batch.line["count"]), "dtype": batch.dtype, "is_whole": batch.is_whole, **PINNED}
        return _Launch(program, (len(batch.owners),), tables, usual | constants)


def _on_card(device: Any) -> Callable[[], AbstractContextManager[Any]]:
    """What makes contexts in which launches go to a card that is named by its number; else contexts that do nothing."""
    import torch

    named = torch.device(device)
    return partial(torch.cuda.device, named) if named.type == "cuda" and named.index is not None else nullcontext


def _known(jobs: Jobs, structure: Structure) -> dict[Any, Any]:
    """What was made for jobs and a structure; it goes when the structure goes."""
    if jobs.uploaded is None:
        jobs.uploaded = weakref.WeakKeyDictionary()
    known: dict[Any, Any] = jobs.uploaded.setdefault(structure, {})
    return known


def factor_options(rank: int, count: int, dtype: int) -> dict[str, Any]:
    """Constants and options of a launch that moves matrices in factors.

    Registers are bounded, so that enough threads have loads under way at once; not where that would spill them.
    """
    bounds = {1: 80, 2: 128} if dtype in NARROW else {1: 128}
    is_bound = count in bounds and rank != MANY
    return {"rank": rank, "num_warps": 8} | ({"maxnreg": bounds[count]} if is_bound else {})


class Broken(Exception):
    """Triton is installed but can't be used here."""


def kernels(device: Any) -> TritonKernels | None:
    """Kernels for a torch device, once a trial run has shown the right bits; None where Triton is not installed.

    Raises:
        Broken: Triton is too old; or it can't compile a kernel, for which it needs a C compiler and the headers of
            Python; or its random numbers differ from the definition.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        import triton

        check_version(triton.__version__)
        from zoplat_devices.kernels import gpu_kernels

        made = TritonKernels(device, gpu_kernels)
        is_right = _matches_definition(made)
    except Broken:
        raise
    except Exception as problem:  # whatever Triton, its compiler or its driver may throw
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[-1]
        raise Broken(f"Triton is installed but makes no kernels here: {reason}") from problem
    if not is_right:
        raise Broken("Triton's kernels make other numbers here than the definition.")
    return made


def check_version(version: str) -> None:
    """Raise Broken where a version of Triton is older than `OLDEST`."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise Broken(
            f"Triton {version} is too old for the kernels, which need {needed} or newer. PyTorch 2.11 and newer bring "
            "it along: pip install --upgrade torch."
        )


def _matches_definition(made: TritonKernels) -> bool:
    """Trial run: whether two groups of normals have the bits of the definition."""
    import torch

    from zoplat_devices.kernels.noise import ReferenceNoise

    trial = torch.zeros(1024, device=made.device)  # zeros: fresh memory may hold the right numbers of an earlier trial
    made.numbers(trial.data_ptr(), "normal", (1, 2), 0, len(trial))
    expected = ReferenceNoise().numbers("normal", (1, 2), 0, (len(trial),))
    return trial.cpu().numpy().tobytes() == expected.tobytes()
