"""Times of steps divided by those of bare forward passes right before and after, interleaved."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.steps import Step

Seconds = tuple[float, float]
"""Wall-clock time, and CPU time of the process."""
CLOCKS = ("wall", "cpu")


class OutOfTime(BaseException):
    """The time limit is reached. No Exception, so that what goes on after any failure does not after this."""


@dataclass
class Timings:
    """Timings of one variant.

    Attributes:
        ratios: by clock, for every round: time of a step divided by that of its forward passes.
        bare: for every round, wall-clock seconds of a bare forward pass.
    """

    ratios: dict[str, list[float]] = field(default_factory=lambda: {clock: [] for clock in CLOCKS})
    bare: list[float] = field(default_factory=list)

    def add(self, step: Seconds, around: list[Seconds], passes: int) -> None:
        """Add a round: a step of so many passes, and the bare forward passes around it."""
        forward = [statistics.median(one[i] for one in around) for i in range(len(CLOCKS))]
        self.bare.append(forward[0])
        for i, clock in enumerate(CLOCKS):
            self.ratios[clock].append(step[i] / (passes * forward[i]))

    def row(self) -> dict[str, Any]:
        """Medians and spreads, as a row of the results has them."""
        return {
            "rounds": len(self.bare),
            "bare_ms": round(1000 * statistics.median(self.bare), 3),
            **{clock: summary(ratios) for clock, ratios in self.ratios.items()},
        }


def interleaved(
    steps: Mapping[str, Step],
    bare: Callable[[], None],
    synchronize: Callable[[], None],
    rounds: int,
    seconds: float,
    passes: int,
    timings: dict[str, Timings],
) -> None:
    """Time steps round by round.

    Args:
        steps: by name; each round has every one of them once.
        bare: makes a forward pass.
        synchronize: waits for the device.
        rounds: the least number of rounds.
        seconds: new rounds begin until this time has passed.
        passes: number of bare forward passes before a step, and after it.
        timings: filled in, by name; after OutOfTime it has the rounds so far.
    """
    began, done = time.perf_counter(), 0
    with frozen_heap():
        while done < rounds or time.perf_counter() - began < seconds:
            for name, step in steps.items():
                step.before()
                with without_collection():
                    around = [clocked(bare, synchronize) for _ in range(passes)]
                    spent = clocked(step, synchronize)
                    around += [clocked(bare, synchronize) for _ in range(passes)]
                step.after()
                timings.setdefault(name, Timings()).add(spent, around, step.passes)
            done += 1


def clocked(work: Callable[[], Any], synchronize: Callable[[], None] = lambda: None) -> Seconds:
    """Time of some work, on both clocks."""
    synchronize()
    began = time.perf_counter(), time.process_time()
    work()
    synchronize()
    return time.perf_counter() - began[0], time.process_time() - began[1]


@contextmanager
def frozen_heap() -> Iterator[None]:
    """A context in which the garbage collector ignores all objects that exist before it, so that it is quick.

    Within another one it does nothing: what lives shorter than the outer one must stay collectable.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def without_collection() -> Iterator[None]:
    """A context before which garbage is collected, and within which it is not."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summary(values: list[float]) -> dict[str, float]:
    """Median and half the interquartile range; the latter is 0 for a single value."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [0.0] * 3
    return {"median": round(statistics.median(values), 4), "spread": round((quartiles[2] - quartiles[0]) / 2, 4)}
