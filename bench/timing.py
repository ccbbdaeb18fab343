"""Seconds of steps over those of bare forward passes right before and after, turn by turn."""

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
"""By the clock on the wall, and of the processors that the process used."""
CLOCKS = ("wall", "cpu")


class OutOfTime(Exception):
    """The time that a program was given is over."""


@dataclass
class Taken:
    """What one way took.

    Attributes:
        ratios: by clock, of every round: a step over its forward passes.
        bare: seconds of a forward pass on the wall, of every round.
    """

    ratios: dict[str, list[float]] = field(default_factory=lambda: {clock: [] for clock in CLOCKS})
    bare: list[float] = field(default_factory=list)

    def add(self, spent: Seconds, around: list[Seconds], passes: int) -> None:
        """One more round."""
        forward = [statistics.median(one[at] for one in around) for at in range(len(CLOCKS))]
        self.bare.append(forward[0])
        for at, clock in enumerate(CLOCKS):
            self.ratios[clock].append(spent[at] / (passes * forward[at]))

    def row(self) -> dict[str, Any]:
        """Medians and spreads."""
        return {
            "rounds": len(self.bare),
            "bare_ms": round(1000 * statistics.median(self.bare), 3),
            **{clock: summary(ratios) for clock, ratios in self.ratios.items()},
        }


def interleaved(
    steps: Mapping[str, Step],
    bare: Callable[[], None],
    finished: Callable[[], None],
    rounds: int,
    seconds: float,
    passes: int,
    taken: dict[str, Taken],
) -> None:
    """Fill in what each step takes, round by round.

    Args:
        steps: by name; a round has each of them once.
        bare: a forward pass.
        finished: waits for the device.
        rounds: at least so many.
        seconds: further rounds begin until so many are spent.
        passes: bare forward passes before a step and after it.
        taken: by name; holds the rounds so far should time run out.
    """
    began, done = time.perf_counter(), 0
    with settled():
        while done < rounds or time.perf_counter() - began < seconds:
            for name, step in steps.items():
                step.before()
                with collected():
                    around = [clocked(bare, finished) for _ in range(passes)]
                    spent = clocked(step, finished)
                    around += [clocked(bare, finished) for _ in range(passes)]
                step.after()
                taken.setdefault(name, Taken()).add(spent, around, step.passes)
            done += 1


def clocked(work: Callable[[], Any], finished: Callable[[], None] = lambda: None) -> Seconds:
    """Seconds of some work."""
    finished()
    began = time.perf_counter(), time.process_time()
    work()
    finished()
    return time.perf_counter() - began[0], time.process_time() - began[1]


@contextmanager
def settled() -> Iterator[None]:
    """What lives already is no garbage, so that collecting is quick."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collected() -> Iterator[None]:
    """Garbage is collected before, and not within."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summary(values: list[float]) -> dict[str, float]:
    """Median, and half the distance between the quartiles; 0 for a single value."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [0.0] * 3
    return {"median": round(statistics.median(values), 4), "spread": round((quartiles[2] - quartiles[0]) / 2, 4)}
