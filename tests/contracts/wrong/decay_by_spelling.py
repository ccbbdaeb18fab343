"""Decays what is not called a bias, a norm or the like.

Trainers look for certain letters in the names of the weights, which holds for some architectures:
LLaMA's final norm is called "norm" and decays.
"""

from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Estimate, Oracle, Schedule, Scheduled, StepRule, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class BySpelling(Scheduled):
    """A plain step, and decay by name.

    Attributes:
        schedule: η over the run, and the weight decay λ.
    """

    schedule: Schedule = Constant(lr=1e-6)

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        lr = self.rate(oracle)

        def kernel(theta: Any, zero: Any) -> None:
            theta *= 1 - lr * self.schedule.decay

        named = oracle.space.part(lambda block: "bias" not in block.name)
        oracle.space.sweep(kernel, ZERO, on=named)
        oracle.space.add(-lr * estimate.direction)


@hookimpl
def zoplat_step_rules() -> dict[str, StepRule]:
    return {"decay-by-spelling": BySpelling()}
