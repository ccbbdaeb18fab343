"""Counts its steps where no checkpoint looks, and has another step size every tenth of them.

LOZO's step counter and V live on the trainer: after a resume V is drawn anew, without notice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian

STEPS = count()


@dataclass(frozen=True)
class OnTheTrainer(Estimator):
    """Central difference, renewed by a count of its own.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate((2 if next(STEPS) % 10 == 0 else 1) * projected_grad * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"on-the-trainer": OnTheTrainer()}
