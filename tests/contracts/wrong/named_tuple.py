"""Keeps its state in a named tuple, which a checkpoint can't name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from zoplat import ZERO, Direction, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


class Kept(NamedTuple):
    """A direction and its slope."""

    z: Direction
    slope: float


@dataclass
class State:
    """The last direction."""

    last: Kept


@dataclass(frozen=True)
class NamedTuples(Estimator[State]):
    """Central differences.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State(Kept(ZERO, 0.0))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        slopes, losses = oracle.slopes([z], self.eps)
        state.last = Kept(z, slopes[0])
        yield Estimate(slopes[0] * z, losses, self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"named-tuple": NamedTuples()}
