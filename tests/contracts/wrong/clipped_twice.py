"""Clips its slopes, says so, and forgets the 2 of 2ε."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class ClippedTwice(Estimator):
    """Clipped differences over ε.

    Attributes:
        eps: smoothing radius ε; positive.
        clip: largest slope; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    clip: float = 1.0
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def bias(self) -> str:
        return "slopes are clipped"

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        slope = max(-self.clip, min(self.clip, (up - down) / self.eps))
        yield Estimate(slope * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"clipped-twice": ClippedTwice()}
