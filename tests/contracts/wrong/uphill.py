"""Takes the two probes for each other, and so climbs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class Uphill(Estimator):
    """Central difference, with the wrong sign.

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
        down, up = oracle.losses(+self.eps * z, -self.eps * z)
        yield Estimate((up - down) / (2 * self.eps) * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"uphill": Uphill()}
