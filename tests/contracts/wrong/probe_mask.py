"""Masks the probe and not the step, for more than one direction.

So does ZO-Bench's sparse method: its path for q > 1 gathers q·z without the mask.
"""

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
class ProbeMask(Estimator):
    """Central differences along masked directions.

    Attributes:
        eps: smoothing radius ε; positive.
        queries: directions averaged in one step; at least 1.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    queries: int = 1
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def bias(self) -> str:
        return "large weights are left out"

    def init(self, space: ParameterSpace) -> State:
        state = State(space.buffer("probe-mask/mask", dtype="uint8"))

        def kernel(theta: Any, zero: Any, mask: Any) -> None:
            mask[:] = abs(theta) < 0.5

        space.sweep(kernel, ZERO, state.mask)
        return state

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        g, seen = ZERO, []
        for z in oracle.draw(self.sampler, self.queries):
            masked = z.scaled(state.mask)
            up, down = oracle.losses(+self.eps * masked, -self.eps * masked)
            g += (up - down) / (2 * self.eps * self.queries) * (masked if self.queries == 1 else z)
            seen += [up, down]
        yield Estimate(g, seen, self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"probe-mask": ProbeMask()}
