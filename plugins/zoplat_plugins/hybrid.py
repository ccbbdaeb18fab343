"""Hybrid ZO–FO: forward passes for the first layers, backpropagation for the last.

    θ = (a, b)                         b: the last k layers and what is registered after them
    z ~ N(0, I) on a, zero on b
    g = [ L(θ + εz) − L(θ − εz) ] / 2ε        two forward passes
    a ← a − η g z                             the rule `probed`
    b ← b − η′ ∇_b L(θ)                       the rule `exact`, same batch, same θ

The gradient stops at b, so that only the activations of the last k layers are kept.

Cost per step: 2 forward passes, and one with a backward pass, which count as three; 1 pass over θ and 2 over a.
Memory: that of inference, the activations of the last k layers for a batch, a gradient for b in float32, and what the
rules keep. The device must answer "gradient", and the run can't be replayed from its journal.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592, hybrid ZO and FO fine-tuning.
Differs: the authors published no code for it. That both parts are measured at the same θ, and both step sizes, are
ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import (
    Around,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Part,
    Sampler,
    StepRule,
    ZoplatError,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class States:
    """What the two rules keep."""

    probed: Any
    exact: Any


@dataclass(frozen=True)
class Routed(StepRule[States]):
    """One rule for estimates made by probing, another for exact gradients: those whose radius is 0.

    A rule that keeps numbers for each weight keeps them for all blocks, and the weight decay of either acts on all.

    Attributes:
        probed: rule of the estimates with eps above 0; its η is the one in the journal.
        exact: rule of the estimates with eps 0.
    """

    probed: StepRule = Constant(lr=1e-6)
    exact: StepRule = Constant(lr=1e-3)

    @property
    def has_horizon(self) -> bool:
        return self.probed.has_horizon or self.exact.has_horizon

    def init_for(self, space: ParameterSpace, law: Sampler | None) -> States:
        return States(self.probed.init_for(space, law), self.exact.init_for(space, None))

    def rate(self, oracle: Oracle) -> float | None:
        return self.probed.rate(oracle)

    def apply(self, estimate: Estimate, oracle: Oracle, state: States) -> None:
        rule, kept = (self.probed, state.probed) if estimate.eps > 0 else (self.exact, state.exact)
        rule.apply(estimate, oracle, kept)


@dataclass(frozen=True)
class Hybrid(Estimator[None]):
    """A central difference on the first blocks, the gradient on the last.

    Attributes:
        last: k, layers of the gradient part; at least 1. The part begins with the first array, in the order of
            registration, that belongs to one of them, and holds all arrays from there on: a final norm or a head is
            in it if the model registers it after its layers. Where no array belongs to a layer, each counts as one.
        rule: how the estimates become steps; mostly `routed`.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    last: int = number(1, at_least=1)
    sampler: Sampler = Gaussian()
    rule: StepRule = Routed()
    asks = frozenset({"losses", "gradient"})
    bias = "each estimate is of the gradient on one of the two parts"

    def init(self, space: ParameterSpace) -> None:
        self.exact_part(space)

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        exact = self.exact_part(oracle.space)
        [z] = oracle.draw(self.sampler, 1)
        z = z.on(oracle.space.everything - exact)
        [projected_grad], losses = oracle.slopes([z], self.eps)
        loss, gradient = oracle.gradient(exact)
        yield Estimate(projected_grad * z, losses, self.eps, [projected_grad])
        yield Estimate(gradient, [loss])

    def exact_part(self, space: ParameterSpace) -> Part:
        """The blocks that are trained by their gradient."""
        layers = [block.layer for block in space.blocks]
        if all(layer is None for layer in layers):
            layers = list(range(len(layers)))
        known = sorted({layer for layer in layers if layer is not None})
        start = min(layers.index(layer) for layer in known[-self.last :])
        if start == 0:
            raise ZoplatError(
                f"last={self.last} leaves no weights for forward passes: the trained weights have {len(known)} layers "
                "and nothing before them. Use a smaller -o last=…, or --estimator sgd."
            )
        return Part(frozenset(block.name for block in space.blocks[start:]))


@hookimpl
def zoplat_step_rules() -> dict[str, Routed]:
    return {"routed": Routed()}


@hookimpl
def zoplat_estimators() -> dict[str, Hybrid]:
    return {"hybrid": Hybrid()}
