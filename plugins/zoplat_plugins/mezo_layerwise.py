"""MeZO-layerwise: probes and steps scaled by the norm of each layer.

With one number d > 0 for every group of weights, a layer or a block outside of all layers:

    z ~ N(0, I)
    g = [ L(θ + ε z/d) − L(θ − ε z/d) ] / 2ε
    θ ← θ − η g d z          "variance": the mean is ∇L, the spread another
    θ ← θ − η g z            "expectation": the mean is ∇L/d

d is the norm of the group's weights, or that of its gradient, which is estimated by probing the group alone:
|L(θ + εz) − L(θ − εz)| / 2ε with z zero outside of it. A norm of 0 counts as 1.

Cost per step: 2 forward passes; 2 for each group whenever gradient norms are measured. Memory: that of inference, and
one number a group.

Source: Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", NeurIPS 2023, arXiv:2305.17333,
appendix B, Definitions 6 and 7, Proposition 1.
Differs: the paper measures at the first step or once an epoch; `interval` counts steps. The authors' code as released
reads an option that it does not declare. Where it divides a norm of weights for the size of a group, it divides by
the root of the norm; `by_size` divides by the root of the size. Its groups are the layers, all embeddings and the
head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from zoplat import ZERO, Around, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """d, one number a group in the order of the layers; empty before the first step."""

    norms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Layerwise(Estimator[State]):
    """Central differences along a direction that is divided by the norm of each group.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters times those of d; positive.
        norm: what d is the norm of: a group's "parameters", or its "gradient".
        form: "variance" multiplies the step by d, "expectation" does not.
        interval: steps from one measurement of d to the next; 0 for one at the first step only.
        beta: what is kept of the old d when it is measured again; in [0, 1).
        by_size: whether d is divided by the root of the group's size.
        single: whether a step probes and moves one group alone, in turn.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    norm: Literal["parameters", "gradient"] = "parameters"
    form: Literal["variance", "expectation"] = "variance"
    interval: int = number(0, at_least=0)
    beta: float = number(0.0, at_least=0, below=1)
    by_size: bool = False
    single: bool = False
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def bias(self) -> str:
        if self.single:
            return "one group of weights is probed at a step"
        return "" if self.form == "variance" else "∇L is divided by the norm of each group"

    def init(self, space: ParameterSpace) -> State:
        return State()

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        if not state.norms:
            state.norms = self._measured(oracle)
        elif self.interval and oracle.step % self.interval == 0:
            pairs = zip(state.norms, self._measured(oracle), strict=True)
            state.norms = [self.beta * old + (1 - self.beta) * new for old, new in pairs]
        [z] = oracle.draw(self.sampler, 1)
        pieces = [(z.on(part), d) for part, d in zip(oracle.space.layers(), state.norms, strict=True)]
        if self.single:
            pieces = [pieces[oracle.step % len(pieces)]]
        [projected_grad], losses = oracle.slopes([sum((piece / d for piece, d in pieces), ZERO)], self.eps)
        step = sum((d * piece if self.form == "variance" else piece for piece, d in pieces), ZERO)
        yield Estimate(projected_grad * step, losses, self.eps, [projected_grad])

    def _measured(self, oracle: Oracle) -> list[float]:
        """A new d, one number a group."""
        space, parts = oracle.space, oracle.space.layers()
        if self.norm == "parameters":
            squares = space.reduce(lambda theta, g: (theta * theta).sum())
            norms = [math.sqrt(sum(squares[block.name] for block in space.blocks if block in part)) for part in parts]
        else:
            alone = [z.on(part) for z, part in zip(oracle.draw(self.sampler, len(parts)), parts, strict=True)]
            norms = [abs(slope) for slope in oracle.slopes(alone, self.eps).projected_grads]
        if self.by_size:
            norms = [d / math.sqrt(space.size_of(part)) for d, part in zip(norms, parts, strict=True)]
        return [d or 1.0 for d in norms]


@hookimpl
def zoplat_estimators() -> dict[str, Layerwise]:
    return {"mezo-layerwise": Layerwise()}
