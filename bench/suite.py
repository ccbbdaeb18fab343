"""Measure pairs of variants, with one model open at a time, on any device."""

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
from bench.steps import Step, ZoplatStep, bare, peak, step_of, synchronize, vocabulary
from bench.timing import OutOfTime, Timings, interleaved
from zoplat_devices.pytorch.session import PyTorchSession

SMALL = 256
"""Batches of fewer tokens have forward passes too short to be timed once."""
Task = tuple[Pair, Shape]


@dataclass(frozen=True)
class Bench:
    """How pairs are measured.

    Attributes:
        kind: registered name of the device.
        rounds: the least number of rounds of a pair.
        seconds: the least time for a pair.
        peaks: whether the peak memory of each step is measured too.
    """

    kind: str
    rounds: int
    seconds: float
    peaks: bool = False

    def run(self, tasks: Sequence[Task], command: str) -> Iterator[tuple[Row, list[Row]]]:
        """(run, rows) after each pair; tasks of one setup have to be adjacent."""
        for _, group in groupby(tasks, key=lambda task: task[0].setup.name):
            pairs = list(group)
            session = opened(pairs[0][0].setup, self.kind)
            run = run_of(command, session.facts["accelerator"])
            for pair, shape in pairs:
                yield run, self.measured(session, pair, shape)
            del session
            gc.collect()

    def measured(self, session: PyTorchSession, pair: Pair, shape: Shape) -> list[Row]:
        """Rows of a pair, for those variants that were measured before time ran out."""
        rows = batch(vocabulary(session.model), shape)
        forward, count = bare(session, rows), len(session.space.buffers)
        steps: dict[str, Step] = {
            variant.name: step_of(session, pair.setup, variant, rows) for variant in pair.variants
        }
        timings: dict[str, Timings] = {}
        peaks: dict[str, int] = {}
        with suppress(OutOfTime):
            passes = 3 if shape[0] * shape[1] < SMALL else 1
            interleaved(steps, forward, partial(synchronize, self.kind), self.rounds, self.seconds, passes, timings)
            if self.peaks:
                peaks[""] = peak(session, forward)
                peaks |= {name: step.peak() for name, step in steps.items() if isinstance(step, ZoplatStep)}
        session.space.settle()
        del session.space.buffers[count:]  # state of these steps
        identity = {"kind": "step", "model": pair.setup.model, "setup": pair.setup.name, "pair": pair.name}
        weights = session.facts["model_bytes"]
        return [
            {**identity, "step": name, "shape": list(shape), "passes": steps[name].passes}
            | timings[name].row()
            | ({"peak": peaks[name], "inference": peaks[""], "weights": weights} if name in peaks else {})
            for name in timings
        ]


def tasks_of(pairs: Iterable[Pair], only: str, shapes: Sequence[Shape] = ()) -> list[Task]:
    """Pairs with their shapes, or with other shapes, whose labels match a pattern."""
    found = [(pair, shape) for pair in pairs for shape in shapes or pair.shapes]
    return [(pair, shape) for pair, shape in found if re.search(only, pair.label(shape))]


def shape_of(text: str) -> Shape:
    """(rows, tokens) from ROWSxTOKENS."""
    rows, tokens = text.split("x")
    return int(rows), int(tokens)


def line(row: Row, clock: str = "wall") -> str:
    """A row as a line for the terminal."""
    if row["kind"] == "memory":
        above = (row["peak"] - row["inference"]) / 2**20
        return f"{row['step']:<28} {row['peak'] / 2**20:9.1f} MiB  {above:+9.1f} above inference"
    ratio = f"{row[clock]['median']:7.3f} ± {row[clock]['spread']:<6.3f}" if clock in row else ""
    if row["kind"] == "pass":
        return f"{row['step']:<28} {ratio} {row['ns']:.3f} ns a weight"
    passes = f"{row['passes']} × {row['bare_ms']:.1f} ms, {row['rounds']} rounds"
    return f"{row['setup']:<34} {row['shape'][0]:>2} × {row['shape'][1]:<4} {row['step']:<28} {ratio} of {passes}"
