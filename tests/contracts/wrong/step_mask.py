"""Masks the step and not the probe, and declares a bias."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """The mask."""

    mask: Buffer


@dataclass(frozen=True)
class StepMask(Estimator):
    """Central differences, of which the large weights keep nothing.

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
        return "large weights are left out"

    def init(self, space: ParameterSpace) -> State:
        state = State(space.buffer("step-mask/mask", dtype="uint8"))

        def kernel(theta: Any, zero: Any, mask: Any) -> None:
            mask[:] = abs(theta) < 0.5

        space.sweep(kernel, ZERO, state.mask)
        return state

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        yield Estimate((up - down) / (2 * self.eps) * z.scaled(state.mask), [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"step-mask": StepMask()}
