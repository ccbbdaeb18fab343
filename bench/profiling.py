"""What profiling costs: steps with the timeline and the machine's probes, and without, taking turns in one process.

    python bench/profiling.py [MODEL] [ROUNDS]

Phases and owners are measured in every step of every run, so they are in both. It prints medians of wall and processor
time, and the ratio of the medians; processor time has the sampling thread in it, and other work on the machine less.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from bench.cases import FOUR, Setup, zoplat_step
from bench.models import batch, opened
from bench.steps import ZoplatStep, vocabulary
from zoplat.training.readings import Readings
from zoplat.training.timeline import Timeline

PROBES_EVERY = 1.0
"""Seconds between readings of the probes, as in `zoplat profile`."""


def main(model: str = "opt-125m", rounds: str = "15") -> None:
    """Measure and print."""
    setup = Setup(model)
    session = opened(setup, "cpu")
    step = ZoplatStep(session, setup, zoplat_step("mezo", "mezo"), batch(vocabulary(session.model), FOUR))
    readings = Readings(every=PROBES_EVERY)
    step.before()
    plain, profiled = [], []
    for _ in range(int(rounds)):
        plain.append(seconds(step))
        with Timeline(step.profiler):
            profiled.append(seconds(partial(_with_probes, step, readings)))
    for kind, column in (("wall", 0), ("processor", 1)):
        without, beside = (median(row[column] for row in rows) for rows in (plain, profiled))
        print(f"{kind} time: {without:.4f} s without, {beside:.4f} s with, {beside / without - 1:+.2%}")


def _with_probes(step: ZoplatStep, readings: Readings) -> None:
    step()
    readings.take(now=False)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main(*sys.argv[1:])
