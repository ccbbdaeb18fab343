"""Sells the sign of the slope as the sign of every entry.

ZO-Bench's ZO-SGD-Sign does: its z is Gaussian, so that weights move by all sorts of amounts.
"""

import math
from dataclasses import dataclass
from typing import Any

from zoplat import Direction, Estimate, Oracle, Schedule, Scheduled, StepRule, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class SignOfTheSlope(Scheduled):
    """Every entry moves by η, it says.

    Attributes:
        schedule: η over the run, and the weight decay λ.
    """

    schedule: Schedule = Constant(lr=1e-6)

    @property
    def moves_alike(self) -> bool:
        return True

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        lr = self.rate(oracle)
        signs = Direction({draw: math.copysign(1.0, c) for draw, c in estimate.direction})
        oracle.space.add(-lr * signs, decay=lr * self.schedule.decay)


@hookimpl
def zoplat_step_rules() -> dict[str, StepRule]:
    return {"sign-of-the-slope": SignOfTheSlope()}
