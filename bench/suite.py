"""Measuring pairs of the table, one model open at a time, whatever the device."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from bench.cases import Pair, Shape
from bench.models import batch, opened
from bench.results import Row, run_of
from bench.steps import Ours, Step, bare, finished, made, peak, vocabulary
from bench.timing import OutOfTime, Taken, interleaved
from zoplat_devices.pytorch.session import PyTorchSession

SMALL = 256
"""Tokens of a batch below which a forward pass is too short to be timed once."""
Task = tuple[Pair, Shape]


@dataclass(frozen=True)
class Bench:
    """How pairs are measured.

    Attributes:
        kind: of the device.
        rounds: of a pair, at least.
        seconds: of a pair, at least.
        peaks: whether the peak memory of each step is read too.
    """

    kind: str
    rounds: int
    seconds: float
    peaks: bool = False

    def run(self, tasks: Sequence[Task], command: str) -> Iterator[tuple[Row, list[Row]]]:
        """(run, rows) after each pair; tasks of one setup stand together."""
        for _, group in groupby(tasks, key=lambda task: task[0].setup.name):
            same = list(group)
            session = opened(same[0][0].setup, self.kind)
            run = run_of(command, session.facts["accelerator"])
            for pair, shape in same:
                yield run, self.measured(session, pair, shape)
            del session
            gc.collect()

    def measured(self, session: PyTorchSession, pair: Pair, shape: Shape) -> list[Row]:
        """Rows of a pair, of those ways that had a round before time ran out."""
        rows = batch(vocabulary(session.model), shape)
        forward, state = bare(session, rows), len(session.space.buffers)
        steps: dict[str, Step] = {way.name: made(session, pair.setup, way, rows) for way in pair.ways}
        taken: dict[str, Taken] = {}
        peaks: dict[str, int] = {}
        with suppress(OutOfTime):
            passes = 3 if shape[0] * shape[1] < SMALL else 1
            interleaved(steps, forward, partial(finished, self.kind), self.rounds, self.seconds, passes, taken)
            if self.peaks:
                peaks[""] = peak(session, forward)
                peaks |= {name: step.peak() for name, step in steps.items() if isinstance(step, Ours)}
        session.space.settle()
        del session.space.buffers[state:]
        place = {"kind": "step", "model": pair.setup.model, "setup": pair.setup.name, "pair": pair.name}
        weights, together = session.facts["model_bytes"], {way.name: way.steps for way in pair.ways}
        return [
            {**place, "step": name, "shape": list(shape), "passes": steps[name].passes // together[name]}
            | taken[name].row()
            | ({"peak": peaks[name], "inference": peaks[""], "weights": weights} if name in peaks else {})
            for name in taken
        ]


def tasks_of(pairs: Iterable[Pair], only: str, shapes: Sequence[Shape] = ()) -> list[Task]:
    """What is to be measured: pairs at their shapes, or at others, whose labels the pattern finds."""
    found = [(pair, shape) for pair in pairs for shape in shapes or pair.shapes]
    return [(pair, shape) for pair, shape in found if re.search(only, pair.label(shape))]


def shape_of(text: str) -> Shape:
    """ROWSxTOKENS as numbers."""
    rows, tokens = text.split("x")
    return int(rows), int(tokens)


def line(row: Row, clock: str = "wall") -> str:
    """A row as the terminal shows it."""
    if row["kind"] == "memory":
        above = (row["peak"] - row["inference"]) / 2**20
        return f"{row['step']:<28} {row['peak'] / 2**20:9.1f} MiB  {above:+9.1f} above inference"
    ratio = f"{row[clock]['median']:7.3f} ± {row[clock]['spread']:<6.3f}" if clock in row else ""
    if row["kind"] == "pass":
        return f"{row['step']:<28} {ratio} {row['ns']:.3f} ns a weight"
    many = f"{row['passes']} × {row['bare_ms']:.1f} ms, {row['rounds']} rounds"
    return f"{row['setup']:<34} {row['shape'][0]:>2} × {row['shape'][1]:<4} {row['step']:<28} {ratio} of {many}"
