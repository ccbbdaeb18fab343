"""FZOO: one-sided differences along random signs, and steps divided by the spread of the losses.

    u₁ … u_N ∈ {±1}ᵈ                              N random directions, by name
    lᵢ = L(θ + εuᵢ),  l₀ = L(θ)                   N + 1 losses of one batch, asked together
    g = Σ (lᵢ − l₀) uᵢ / εN
    σ = standard deviation of l₁ … l_N            about ε‖∇L‖
    θ ← θ − η g/σ                                  where σ is not 0

FZOO-R draws N/2 directions a step, and takes σ over their losses and the N/2 of the step before.

Cost per step: N + 1 forward passes, FZOO-R: N/2 + 1. Memory: that of inference.

Source: Dang et al., "FZOO: Fast Zeroth-Order Optimizer for Fine-Tuning Large Language Models towards Adam-Scale
Speed", ICLR 2026, arXiv:2506.09034, Algorithm 1.
Differs: the authors' code leaves out 1/ε and divides by N for σ² where the paper divides by N − 1: η of the code = η
of the paper / ε · √((N − 1)/N). The rule's convention = "code" takes step sizes as published for it. A step whose σ
is 0, where both divide by it, is skipped and counted. FZOO-R is that of the paper; the code never keeps the losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zoplat import (
    ZERO,
    Around,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Sampler,
    Schedule,
    Scheduled,
    SkipStep,
    StepRule,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.rademacher import Rademacher


@dataclass(frozen=True)
class Normalized(Scheduled[None]):
    """Steps divided by the spread of the probed losses: scaling the loss changes nothing.

    Attributes:
        convention: "paper" steps by η·ĝ/σ, σ² with divisor N − 1; "code" by η·ε·ĝ/σ, σ² with divisor N.
        floor: an estimate with σ at or below it is left out, in the units of the loss; 0 or more.
    """

    schedule: Schedule = Constant(lr=5e-9)
    convention: Literal["paper", "code"] = "paper"
    floor: float = number(0.0, at_least=0)

    def apply(self, estimate: Estimate, oracle: Oracle, state: None) -> None:
        in_code = self.convention == "code"
        sigma = estimate.spread(is_population=in_code)
        if sigma <= self.floor:
            raise SkipStep(f"The spread of the losses of step {oracle.step} is {sigma:g}, not above the floor.")
        lr = self.rate(oracle)
        length = lr * (estimate.eps if in_code else 1.0) / sigma
        oracle.space.add(-length * estimate.direction, decay=lr * self.schedule.decay)


@dataclass
class State:
    """The N/2 newest losses of the last step that was made; empty before, and where none are used again."""

    previous: list[float]


@dataclass(frozen=True)
class FZOO(Estimator[State]):
    """Mean of one-sided differences along N directions of one batch.

    Attributes:
        eps: probe radius ε, in the units of the parameters; positive.
        queries: N, losses that σ is taken over; at least 2.
        reuse: whether half of them are those of the step before, as in FZOO-R; then N is even.
        sampler: law of u.
    """

    eps: float = number(1e-4, above=0, search=Around(3))
    queries: int = number(8, at_least=2, at_most=10**6)
    reuse: bool = False
    sampler: Sampler = Rademacher()
    rule: StepRule = Normalized()

    def __post_init__(self) -> None:
        super().__post_init__()
        is_even = self.queries % 2 == 0 or not self.reuse
        self.require(is_even, "queries", f"must be even where half of the losses are used again, got {self.queries}")

    def init(self, space: ParameterSpace) -> State:
        return State([])

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        fresh = self.queries - len(state.previous)
        directions = oracle.draw(self.sampler, fresh)
        base, *probed = oracle.losses(ZERO, *(self.eps * u for u in directions))
        pairs = zip(directions, probed, strict=True)
        g = sum(((loss - base) / (self.eps * fresh) * u for u, loss in pairs), ZERO)
        slopes = [(loss - base) / self.eps for loss in probed]
        yield Estimate(g, [*probed, *state.previous], self.eps, slopes)
        if self.reuse and not oracle.left_out:
            state.previous = probed[-(self.queries // 2) :]


@hookimpl
def zoplat_step_rules() -> dict[str, Normalized]:
    return {"normalized": Normalized()}


@hookimpl
def zoplat_estimators() -> dict[str, FZOO]:
    return {"fzoo": FZOO(), "fzoo-r": FZOO(reuse=True)}
