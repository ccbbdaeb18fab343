"""Adam with its moments in the precision of the weights.

ZO-Bench's code does: in float16 ε = 1e-8 is 0 and so are small v, and what is left is 0/0.
"""

from dataclasses import dataclass
from typing import Any

from zoplat import (
    ZERO,
    Buffer,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Schedule,
    Scheduled,
    StepRule,
    hookimpl,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass
class State:
    """The moments."""

    m: Buffer
    v: Buffer


@dataclass(frozen=True)
class HalfMoments(Scheduled):
    """Adam, without its corrections of the start.

    Attributes:
        schedule: η over the run, and the weight decay λ.
    """

    schedule: Schedule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        dtype = space.blocks[0].dtype
        return State(space.buffer("half-moments/m", dtype=dtype), space.buffer("half-moments/v", dtype=dtype))

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        lr = self.rate(oracle)

        def kernel(theta: Any, g: Any, m: Any, v: Any) -> None:
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            theta -= lr * m / (v**0.5 + 1e-8)

        oracle.space.add(ZERO, decay=lr * self.schedule.decay)
        oracle.space.sweep(kernel, estimate.direction, state.m, state.v)


@hookimpl
def zoplat_step_rules() -> dict[str, StepRule]:
    return {"half-moments": HalfMoments()}


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"mezo-half-moments": MeZO(rule=HalfMoments())}
