"""The engine's step on toys, and step-size rules without finesse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zoplat.core.errors import SkipStep
from zoplat.core.estimate import Estimate
from zoplat.core.estimator import Estimator
from zoplat.core.oracle import Oracle
from zoplat.core.rule import Schedule
from zoplat.testing.toys import Toy


@dataclass(frozen=True)
class Plain(Schedule):
    """A constant step size; see `Schedule` for the fields."""

    def curve(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Sweeping(Plain):
    """The same step, made by a sweep, as a rule with state does."""

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        lr = self.rate(oracle)

        def kernel(theta: Any, g: Any) -> None:
            theta -= lr * g

        oracle.space.sweep(kernel, estimate.direction)


class Run:
    """An estimator at work on a toy, step by step as the engine goes.

    Attributes:
        state, rule_state: of the estimator and of its rule.
        step: steps done.
        skipped: why the last step, or some of it, was not made; empty where it was.
    """

    def __init__(self, toy: Toy, estimator: Estimator[Any], steps: int, seed: int = 0) -> None:
        self.toy, self.estimator, self.steps, self.seed = toy, estimator, steps, seed
        self.state, self.rule_state = estimator.init(toy.space), estimator.rule.init_for(toy.space, estimator.law)
        self.step, self.skipped = 0, ""

    def advance(self, oracle: Oracle | None = None) -> Oracle:
        """One step, with the toy's own oracle unless another is given; returns the oracle."""
        for _ in self.applied(oracle := oracle or self.toy.oracle(self.step, self.steps, self.seed)):
            pass
        return oracle

    def applied(self, oracle: Oracle) -> Iterator[Estimate]:
        """One step; yields each estimate once it is applied or left out."""
        self.skipped = ""
        try:
            for estimate in self.estimator.estimate(oracle, self.state):
                self.estimator.apply(estimate, oracle, self.rule_state)
                yield estimate
            self.skipped = oracle.left_out
        except SkipStep as problem:
            self.skipped = str(problem)
        self.step += 1


def train(
    toy: Toy,
    estimator: Estimator[Any],
    steps: int,
    seed: int = 0,
    answers: Sequence[Sequence[float]] | None = None,
) -> list[list[float]]:
    """Run `estimator` on a toy as the engine does, or replay `answers`; returns the answers step by step."""
    run = Run(toy, estimator, steps, seed)
    recorded = []
    for step in range(steps):
        oracle = toy.oracle(step, steps, seed, None if answers is None else answers[step])
        run.advance(oracle)
        recorded.append(oracle.answers)
    toy.space.settle()
    return recorded
