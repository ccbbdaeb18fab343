"""Reads θ in a kernel and decides by it: a kernel may run on stand-ins, or not at all.

Then nothing tells beforehand what a step takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class ReadsInAKernel(Estimator):
    """Central difference, and another one where weights are large.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        squares: list[float] = []

        def kernel(theta: Any, zero: Any) -> None:
            squares.append(float((theta * theta).sum()))

        oracle.space.sweep(kernel, ZERO)
        queries = 2 if sum(squares) > 1 else 1
        slopes, losses = oracle.slopes(drawn := oracle.draw(self.sampler, queries), self.eps)
        yield Estimate(sum((g / queries * z for g, z in zip(slopes, drawn, strict=True)), ZERO), losses, self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"reads-in-a-kernel": ReadsInAKernel()}
