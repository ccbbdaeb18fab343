"""Makes its momentum at the first step, so that a run that is resumed begins without."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """A momentum, once there is one."""

    m: Buffer | None = None


@dataclass(frozen=True)
class LateBuffer(Estimator):
    """Central difference along the momentum and a new direction.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State()

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        if state.m is None:
            state.m = oracle.space.buffer("late-buffer/m")
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * z, [up, down], self.eps)

        def kernel(theta: Any, z: Any, m: Any) -> None:
            m += projected_grad * z

        oracle.space.sweep(kernel, z, state.m)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"late-buffer": LateBuffer()}
