"""Makes a Buffer behind the space's back: it has the shape of one, and is in no ledger and no checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """A momentum."""

    m: Buffer


@dataclass(frozen=True)
class OwnBuffer(Estimator):
    """Central difference, and a momentum that nobody booked.

    Attributes:
        eps: smoothing radius ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State(Buffer("own-buffer/m", {block.name: 0 * block.array for block in space.blocks}))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        projected_grad = (up - down) / (2 * self.eps)
        yield Estimate(projected_grad * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"own-buffer": OwnBuffer()}
