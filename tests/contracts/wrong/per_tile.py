"""Divides each piece of the weights by its length: the step depends on how a device cuts them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, held, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """A mean."""

    m: Buffer


@dataclass(frozen=True)
class PerTile(Estimator):
    """Central difference, and a mean of its pieces at length 1.

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
        return "steps have the length of the mean"

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("per-tile/m"))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)

        def kernel(theta: Any, z: Any, m: Any) -> None:
            m += projected_grad * z
            m /= 1e-8 + (m * m).sum() ** 0.5

        oracle.space.sweep(kernel, z, state.m)
        yield Estimate(held(state.m), [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"per-tile": PerTile()}
