"""An estimator made ready for toys, and the toys made ready for estimators."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.core.estimator import Estimator
from zoplat.testing.parts import PartContract, changed, found
from zoplat.testing.toys import Plain, Run, Toy, like_a_model, quadratic, two_layers

ROUNDING = 1e-12
"""What an entry of θ may be off by in float64 once a probe was taken back."""


class Tried(PartContract):
    """What the contracts of an estimator have in common.

    Attributes:
        estimator: the estimator, as it is registered.
        lr: step size on the toys, where learning is not at stake; found by trial when 0.
    """

    estimator: Estimator
    lr: float = 0.0

    def part(self) -> Estimator:
        """The estimator."""
        return self.estimator

    @property
    def own(self) -> Estimator:
        """The estimator with its own rule, and at most four directions a step, to save time."""
        return light(self.estimator)

    @property
    def plain(self) -> Estimator:
        """The same with a rule that steps along the estimate."""
        return self.stepping(self.lr or gentle(self.own))

    @property
    def with_three(self) -> Estimator:
        """The same with three directions a step.

        Raises:
            SkipTest: it has no `queries`.
        """
        three: Estimator = changed(self.plain, queries=3)
        return three

    def stepping(self, lr: float) -> Estimator:
        """The estimator with a rule that steps along the estimate, at this step size."""
        estimator: Estimator = changed(self.own, rule=Plain(lr=lr))
        return estimator

    def only_numbers(self) -> None:
        """Skips what does not apply to gradients, which no journal holds and no draw brings."""
        if "gradient" in self.estimator.asks:
            raise SkipTest("It asks for gradients: no journal holds them, and no draw brings them.")

    def unbiased(self) -> None:
        """Skips what does not apply where a bias is declared."""
        if self.estimator.bias:
            raise SkipTest(f"It declares a bias: {self.estimator.bias}.")


def a_quadratic(**changes: Any) -> Toy:
    """A quadratic over the weights of a model; `dtype` and `restore` may be given."""
    return like_a_model(quadratic(**changes))


def a_network(**changes: Any) -> Toy:
    """A network of two layers; `dtype` and `restore` may be given."""
    return like_a_model(two_layers(**changes))


def light(estimator: Estimator) -> Estimator:
    """The estimator with at most four directions a step."""
    try:
        few: Estimator = changed(estimator, queries=4) if found(estimator, "queries") > 4 else estimator
    except SkipTest:
        return estimator
    return few


@lru_cache(maxsize=64)
def gentle(estimator: Estimator) -> float:
    """A step size at which 30 steps leave the losses of the toys in bounds."""
    lr = 2e-3
    while lr > 1e-12:
        stepping = changed(estimator, rule=Plain(lr=lr))
        runs = [Run(toy.anew(grid=64), stepping, 30) for toy in (a_quadratic(), a_network())]
        with np.errstate(all="ignore"):
            losses = [[run.advance().loss or 0.0 for _ in range(run.steps)] for run in runs]
        if all(max(seen) < 2 * seen[0] for seen in losses):
            break
        lr /= 4
    return lr
