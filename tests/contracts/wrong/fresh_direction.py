"""Probes with one seed and steps with another.

A memory test in ZO-Bench's code does so: the vector that is applied has nothing to do with the
slope that it is scaled by.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class FreshDirection(Estimator):
    """Central difference, and a step along something else.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        z, other = oracle.draw(self.sampler, 2)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * other, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"fresh-direction": FreshDirection()}
