"""Runs one more forward pass for its log, and does not count it.

HiZOO's code does: 4 passes a step where the paper has 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class ForTheLog(Estimator):
    """Central difference, and L(θ) to be written down.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        [base] = oracle.losses(ZERO)
        yield Estimate(projected_grad * z, [base], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"forward-for-the-log": ForTheLog()}
