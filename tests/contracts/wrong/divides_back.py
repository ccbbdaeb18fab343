"""Scales the weights for a probe and takes that back by dividing, which rounds.

DiZO's inner loop undoes its trial ratios so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class DividesBack(Estimator):
    """Central difference, after a trial of slightly longer weights.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        def longer(theta: Any, zero: Any) -> None:
            theta *= 1.1

        def back(theta: Any, zero: Any) -> None:
            theta /= 1.1

        oracle.space.sweep(longer, ZERO)
        oracle.losses(ZERO)
        oracle.space.sweep(back, ZERO)
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"divides-back": DividesBack()}
