"""Keeps the curvature in the precision of the weights, where it never moves.

HiZOO's code does: at s = 1e-8 float16 rounds every change of h away, and what is left is MeZO.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """The curvature."""

    h: Buffer


@dataclass(frozen=True)
class HalfCurvature(Estimator):
    """Central difference scaled by a running curvature.

    Attributes:
        eps: smoothing radius ε; positive.
        smooth: s, share of h that a step renews; in [0, 1).
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    smooth: float = 1e-8
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def bias(self) -> str:
        return "the estimate is scaled by the curvature"

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("half-curvature/h", fill=1.0, dtype=space.blocks[0].dtype))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        u = z.scaled(state.h, -0.5)
        base, up, down = oracle.losses(ZERO, +self.eps * u, -self.eps * u)
        bend = abs(up + down - 2 * base) / (2 * self.eps**2)
        yield Estimate((up - down) / (2 * self.eps) * u, [up, down], self.eps)

        def kernel(theta: Any, z: Any, h: Any) -> None:
            h += self.smooth * h * (bend * z * z - 1)

        oracle.space.sweep(kernel, z, state.h)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"half-curvature": HalfCurvature()}
