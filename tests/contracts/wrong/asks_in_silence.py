"""Asks for exact derivatives without saying so: a device that has none is found out in the middle of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class AsksInSilence(Estimator):
    """The exact derivative along a random direction.

    Attributes:
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        loss, slope = oracle.jvp(z)
        yield Estimate(slope * z, [loss])


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"asks-in-silence": AsksInSilence()}
