"""The forms in which the contracts run an estimator on toys."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.core.estimator import Estimator
from zoplat.testing.parts import PartContract, changed, found
from zoplat.testing.problems import a_network, a_quadratic
from zoplat.testing.runs import Plain, Run

ROUNDING = 1e-12
"""By how much an entry of θ may differ in float64 once a probe is restored."""


class EstimatorUnderTest(PartContract):
    """What the contracts of an estimator have in common.

    Attributes:
        estimator: the estimator, as it is registered.
        lr: step size on the toys, where learning is not tested; found by trial runs when 0.
    """

    estimator: Estimator[Any]
    lr: float = 0.0

    def part(self) -> Estimator[Any]:
        """The estimator."""
        return self.estimator

    @property
    def own(self) -> Estimator[Any]:
        """The estimator with its own rule, and at most four directions a step, to save time."""
        return with_few_directions(self.estimator)

    @property
    def plain(self) -> Estimator[Any]:
        """The same with a rule that steps along the estimate."""
        return self.stepping(self.lr or stable_rate(self.own))

    @property
    def with_three(self) -> Estimator[Any]:
        """The same with three directions a step.

        Raises:
            SkipTest: it has no `queries`.
        """
        three: Estimator[Any] = changed(self.plain, queries=3)
        return three

    def stepping(self, lr: float) -> Estimator[Any]:
        """The estimator with a rule that steps along the estimate, at this step size."""
        estimator: Estimator[Any] = changed(self.own, rule=Plain(lr=lr))
        return estimator

    def skip_with_gradients(self) -> None:
        """Skips what does not apply to gradients: no journal records them, and they are no draws."""
        if "gradient" in self.estimator.asks:
            raise SkipTest("It asks for gradients: no journal records them, and they are no draws.")

    def skip_with_noise(self) -> None:
        """Skips what does not apply where a step adds secret noise, and no row may decide what the step does."""
        if self.estimator.noise_multiplier is not None:
            raise SkipTest("It adds secret noise at every step, whatever the losses are.")

    def skip_with_bias(self) -> None:
        """Skips what does not apply where a bias is declared."""
        if self.estimator.bias:
            raise SkipTest(f"It declares a bias: {self.estimator.bias}.")


def with_few_directions(estimator: Estimator[Any]) -> Estimator[Any]:
    """The estimator with at most four directions a step."""
    try:
        few: Estimator[Any] = changed(estimator, queries=4) if found(estimator, "queries") > 4 else estimator
    except SkipTest:
        return estimator
    return few


@lru_cache(maxsize=64)
def stable_rate(estimator: Estimator[Any]) -> float:
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
