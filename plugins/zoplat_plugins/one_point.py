"""One-point: one forward pass a step, compared with that of the step before.

    z ~ N(0, I)
    L₊ = L(θ + εz)                       this step's batch
    g = [ L₊ − L₊ of the step before ] / ε
    θ ← θ − η g z

The loss of the step before stands in for L(θ): it does not depend on z, so that the mean of gz is the gradient all
the same, with far more noise. The first step has nothing to compare with: it records its loss and moves nothing.

Cost per step: 1 forward pass. Memory: that of inference, and one number.

Source: Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", NeurIPS 2023, arXiv:2305.17333,
Definition 8, after Zhang et al., "A New One-Point Residual-Feedback Oracle for Black-Box Learning and Control",
Automatica 2022.
Differs: the paper names no settings for it and the authors' code does not have it; ε is MeZO's and η a tenth of
MeZO's. A step of the past is felt through η‖∇L‖/ε, which must stay well below 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Around, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """The loss of the last step that had one; None before."""

    previous: float | None = None


@dataclass(frozen=True)
class OnePoint(Estimator[State]):
    """Residual feedback: the change of the loss since the last step, along the new direction.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive, and well above η‖∇L‖.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-7)

    def init(self, space: ParameterSpace) -> State:
        return State()

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        [up] = oracle.losses(self.eps * z)
        previous, state.previous = state.previous, up
        if previous is not None:
            projected_grad = (up - previous) / self.eps
            yield Estimate(projected_grad * z, [up], self.eps, [projected_grad])


@hookimpl
def zoplat_estimators() -> dict[str, OnePoint]:
    return {"one-point": OnePoint()}
