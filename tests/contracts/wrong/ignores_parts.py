"""Names its directions itself, beside the oracle: nobody can restrict them to some blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Direction, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class ByItself(Estimator):
    """Central difference along a vector of its own.

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
        [(draw, _)] = z
        z = Direction.of(draw.sampler, draw.key)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"ignores-parts": ByItself()}
