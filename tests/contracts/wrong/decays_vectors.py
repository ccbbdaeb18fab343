"""Decays vectors too."""

from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Oracle, Schedule, Scheduled, StepRule, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class DecaysAll(Scheduled):
    """A plain step, and decay on all weights.

    Attributes:
        schedule: η over the run, and the weight decay λ.
    """

    schedule: Schedule = Constant(lr=1e-6)

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        lr = self.rate(oracle)

        def kernel(theta: Any, g: Any) -> None:
            theta *= 1 - lr * self.schedule.decay
            theta -= lr * g

        oracle.space.sweep(kernel, estimate.direction)


@hookimpl
def zoplat_step_rules() -> dict[str, StepRule]:
    return {"decays-vectors": DecaysAll()}
