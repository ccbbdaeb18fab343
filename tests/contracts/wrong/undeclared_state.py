"""Keeps a number for every weight and declares none."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """A mean."""

    m: Buffer


@dataclass(frozen=True)
class Undeclared(Estimator):
    """Central difference, and a mean of the estimates.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("undeclared-state/m"))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * z, [up, down], self.eps)

        def kernel(theta: Any, z: Any, m: Any) -> None:
            m += projected_grad * z

        oracle.space.sweep(kernel, z, state.m)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"undeclared-state": Undeclared()}
