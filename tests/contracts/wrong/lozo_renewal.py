"""A LOZO that steps astray whenever it renews V.

In the authors' trainer the pass that applies the update draws U from the stream that, on the
steps that renew V, the probes began with V: what is applied there is unrelated to what was
probed. One step in ν is noise of full size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class Renewing(Estimator):
    """Central difference along U Vᵀ, V new every ν steps.

    Attributes:
        eps: smoothing radius ε; positive.
        interval: ν, steps that share V; at least 1.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    interval: int = 50
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        if oracle.step and oracle.step % self.interval == 0:
            [z] = oracle.draw(self.sampler, 1)  # the stream is past V now
        yield Estimate(projected_grad * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"lozo-renewal": Renewing()}
