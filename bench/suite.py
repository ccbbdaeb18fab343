"""Measure pairs of variants, with one model open at a time, on any device."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from bench.cases import Pair, Shape
from bench.models import batch, opened
from bench.results import Row, run_of
from bench.steps import Step, ZoplatStep, bare, peaks, step_of, synchronize, vocabulary
from bench.timing import OutOfTime, Timings, clocked, interleaved, summary
from zoplat import Row as ModelRow
from zoplat_devices.pytorch.session import PyTorchSession

SMALL = 256
"""Batches of fewer tokens have forward passes too short to be timed once."""
WARM = 2
"""Forward passes before those that are timed; a recording is made at the second of a shape."""
PEAKS = ("peak", "held", "inference", "inference_held")
"""Fields of a row: peak bytes in use and bytes held by the allocator, of a step and of inference."""
Task = tuple[Pair, Shape]


@dataclass(frozen=True)
class Bench:
    """How pairs are measured.

    Attributes:
        kind: registered name of the device.
        rounds: the least number of rounds of a pair.
        seconds: the least time for a pair.
        as_on_gpu: whether the peak memory of each step is measured too, and the faster of eager and recorded inference
            is the bare forward pass.
    """

    kind: str
    rounds: int
    seconds: float
    as_on_gpu: bool = False

    def run(self, tasks: Sequence[Task], command: str) -> Iterator[tuple[Row, list[Row]]]:
        """(run, rows) after each pair; tasks of one setup have to be adjacent."""
        for _, group in groupby(tasks, key=lambda task: task[0].setup.name):
            pairs = list(group)
            session = opened(pairs[0][0].setup, self.kind)
            run = run_of(command, session.facts["accelerator"])
            inference: dict[Shape, tuple[int, int]] = {}  # before anything is recorded
            if self.as_on_gpu:
                for shape in dict.fromkeys(shape for _, shape in pairs):
                    inference[shape] = peaks(session, bare(session, rows_of(session, shape), eager=True))
            for pair, shape in pairs:
                yield run, self.measured(session, pair, shape, inference.get(shape))
            del session
            gc.collect()

    def measured(
        self, session: PyTorchSession, pair: Pair, shape: Shape, inference: tuple[int, int] | None = None
    ) -> list[Row]:
        """Rows of a pair, for those variants that were measured before time ran out.

        Args:
            session: an opened model.
            pair: what is measured.
            shape: of the batch.
            inference: peak and held bytes of inference, beside which the peaks of steps are put; None for no peaks.
        """
        rows, count = rows_of(session, shape), len(session.space.buffers)
        timings: dict[str, Timings] = {}
        memory: dict[str, Row] = {}
        rates: dict[str, Row] = {}
        steps: dict[str, Step] = {}
        way, forward = "", bare(session, rows)
        with suppress(OutOfTime):
            if inference:
                way, forward = self.fastest(session, rows)
                self.measure_peaks(session, pair, rows, inference, memory)
            steps |= {variant.name: step_of(session, pair.setup, variant, rows) for variant in pair.variants}
            passes = 3 if shape[0] * shape[1] < SMALL else 1
            interleaved(steps, forward, self.wait, self.rounds, self.seconds, passes, timings)
            self.measure_rates(session, pair, shape, steps, rates)
        session.space.settle()
        del session.space.buffers[count:]  # state of these steps
        identity = {"kind": "step", "model": pair.setup.model, "setup": pair.setup.name, "pair": pair.name}
        common = {"weights": session.facts["model_bytes"], "bare": way} if inference else {}
        return [
            {**identity, "step": name, "shape": list(shape), "passes": steps[name].passes}
            | ({"moves": moves} if inference and (moves := steps[name].moves) is not None else {})
            | {**timings[name].row(), **common, **memory.get(name, {}), **rates.get(name, {})}
            for name in timings
        ]

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        synchronize(self.kind)

    def fastest(self, session: PyTorchSession, rows: Sequence[ModelRow]) -> tuple[str, Callable[[], None]]:
        """The fastest inference that the session makes, and what it is called: eager, or as the settings have it."""
        ways = {"as set": bare(session, rows), "eager": bare(session, rows, eager=True)}
        seconds = {name: [clocked(work, self.wait)[0] for _ in range(WARM + 3)][WARM:] for name, work in ways.items()}
        best = min(ways, key=lambda name: min(seconds[name]))
        return best, ways[best]

    def measure_rates(
        self, session: PyTorchSession, pair: Pair, shape: Shape, steps: dict[str, Step], found: dict[str, Row]
    ) -> None:
        """Enter the rate of each batched step: rows × points a second, over rows of plain inference a second.

        Inference is one pass over as many rows as the points of a step have together; all else of a step counts as its
        time.
        """
        for variant in pair.variants:
            if variant.is_batched:
                points = steps[variant.name].passes
                wide = bare(session, rows_of(session, (points * shape[0], shape[1])))
                timings: dict[str, Timings] = {}
                few = {variant.name: steps[variant.name]}
                interleaved(few, wide, self.wait, self.rounds, self.seconds / 2, 1, timings)
                ratios = timings[variant.name].ratios["wall"]
                found[variant.name] = {"rate": summary([1 / (points * ratio) for ratio in ratios])}

    def measure_peaks(
        self,
        session: PyTorchSession,
        pair: Pair,
        rows: Sequence[ModelRow],
        inference: tuple[int, int],
        found: dict[str, Row],
    ) -> None:
        """Enter the peak memory of each step of zoplat, alone with the model, beside that of eager inference."""
        count = len(session.space.buffers)
        for variant in pair.variants:
            if variant.settings:
                peak = peaks(session, ZoplatStep(session, pair.setup, variant, rows))
                found[variant.name] = dict(zip(PEAKS, (*peak, *inference), strict=True))
                session.space.settle()
                del session.space.buffers[count:]


def rows_of(session: PyTorchSession, shape: Shape) -> list[ModelRow]:
    """A batch of a shape for a session's model."""
    return batch(vocabulary(session.model), shape)


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
    passes += f", rate {row['rate']['median']:.3f}" if "rate" in row else ""
    return f"{row['setup']:<34} {row['shape'][0]:>2} × {row['shape'][1]:<4} {row['step']:<28} {ratio} of {passes}"
