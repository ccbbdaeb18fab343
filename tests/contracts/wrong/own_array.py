"""Keeps a copy of the model that no ledger knows of.

DiZO's trainer keeps every z of a step and a deep copy of the base model on the device, and so
needs more memory than the paper says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoplat import Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """Where it all began."""

    anchor: list[Any]


@dataclass(frozen=True)
class OwnArray(Estimator):
    """Central difference, and a copy of the start.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State([np.array(block.array) for block in space.blocks])

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"own-array": OwnArray()}
