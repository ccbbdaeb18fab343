"""Answers about the loss of one batch near θ. Every answer is a number, and every number is journaled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoplat.direction import Direction, Key
from zoplat.errors import NonFinite, ZoplatError
from zoplat.sampler import Sampler
from zoplat.space import ParameterSpace


class Oracle:
    """Questions about one batch, asked at one step.

    Args:
        space: θ.
        key: seed and step; the draws of this step are named from it.
        progress: share of the run's budget that is spent, in [0, 1); None when the budget is only time.
        forward: () → loss of the batch at the weights as they stand.

    Attributes:
        step: step of the run, from 0.
        answers: every number given so far, in order.
    """

    def __init__(self, space: ParameterSpace, key: Key, progress: float | None, forward: Callable[[], float]) -> None:
        self.space = space
        self.step = key.step
        self.progress = progress
        self.answers: list[float] = []
        self._key = key
        self._forward = forward
        self._drawn = 0

    def draw(self, sampler: Sampler, n: int) -> list[Direction]:
        """N fresh directions for this step."""
        first, self._drawn = self._drawn, self._drawn + n
        return [self.space.draw(sampler, Key(self._key.seed, self.step, draw)) for draw in range(first, first + n)]

    def losses(self, *directions: Direction) -> list[float]:
        """L(θ + d) for each d, in order; ask together what may be answered together.

        Raises:
            NonFinite: a loss is infinite or not a number; the engine skips the step.
        """
        return [self._ask(direction) for direction in directions]

    def _ask(self, direction: Direction) -> float:
        self.space.at(direction)
        answer = self._forward()
        self.answers.append(answer)
        if not math.isfinite(answer):
            raise NonFinite(f"The loss at step {self.step}, θ + ({direction}), is {answer}.")
        return answer


class RecordedOracle(Oracle):
    """The same moves with answers from a journal: a run replayed without its model."""

    def __init__(self, space: ParameterSpace, key: Key, progress: float | None, answers: Sequence[float]) -> None:
        remaining = iter(answers)

        def forward() -> float:
            try:
                return next(remaining)
            except StopIteration:
                raise ZoplatError(
                    f"The journal has {len(answers)} answers for step {key.step}, the estimator asks for more. "
                    "It was made with another estimator or another version of it."
                ) from None

        super().__init__(space, key, progress, forward)
