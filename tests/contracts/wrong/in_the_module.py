"""Keeps a running mean of its slopes in a variable of the module."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian

SEEN: list[float] = []


@dataclass(frozen=True)
class InTheModule(Estimator):
    """Central differences, the mean of those so far taken off.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def bias(self) -> str:
        return "the mean of the slopes so far is taken off"

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        slopes, losses = oracle.slopes([z], self.eps)
        SEEN.append(slopes[0])
        yield Estimate((slopes[0] - 0.1 * sum(SEEN) / len(SEEN)) * z, losses, self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"in-the-module": InTheModule()}
