"""MEAZO: MeZO whose step size follows the size of its own slopes.

    z₁ … z_q ~ N(0, I)
    Δᵢ = [ L(θ + εzᵢ) − L(θ − εzᵢ) ] / 2ε
    v ← β v + (1 − β) (1/q) Σ Δᵢ²            a number for the whole model
    v̂ = v/(1 − βᵗ)
    θ ← θ − η/(√v̂ + ζ) · (1/q) Σ Δᵢ zᵢ

What a per-weight second moment would learn from one projected gradient is mostly the size of that number; here only
the number is kept. Multiplying the loss by a constant changes nothing.

Cost per step: 2q forward passes. Memory: that of inference, and two numbers.

Source: Dbouk et al., "On Adaptivity in Zeroth-Order Optimization", 2026, arXiv:2605.03869, as restated by one
secondary account.
Differs: for q > 1 that account has in v the square of the mean of the Δᵢ with their signs. They can cancel, which makes
steps hundreds of times too long; the mean of their squares can't. It divides by 1 − βᵗ⁻¹, which is 0 at the first
step; t counts from 1 here, in our reading. β, ζ and η of the paper were not at hand; those here are ours. Weight decay
is ours.
"""

import math
from dataclasses import dataclass
from statistics import fmean

from zoplat import Estimate, Oracle, ParameterSpace, Schedule, Scheduled, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass
class State:
    """v, the moving mean of squared slopes, and the steps t that went into it."""

    v: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class MEAZO(Scheduled[State]):
    """θ ← (1 − ηλ)θ − η/(√v̂ + ζ)·ĝ, with v̂ the mean square of the recent slopes.

    Attributes:
        beta: β, weight of the past in v; in [0, 1).
        floor: ζ, in the units of a slope; not negative.
    """

    schedule: Schedule = Constant(lr=1e-5)
    beta: float = number(0.99, at_least=0, below=1)
    floor: float = number(1e-8, at_least=0)

    def init(self, space: ParameterSpace) -> State:
        return State()

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        square = fmean(slope**2 for slope in estimate.own_slopes("'meazo'"))
        v = self.beta * state.v + (1 - self.beta) * square
        size = math.sqrt(v / (1 - self.beta ** (state.steps + 1))) + self.floor
        lr = self.rate(oracle)
        oracle.space.add(-lr / (size or 1.0) * estimate.direction, decay=lr * self.schedule.decay)
        state.v, state.steps = v, state.steps + 1


@hookimpl
def zoplat_step_rules() -> dict[str, MEAZO]:
    return {"meazo": MEAZO()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"meazo": MeZO(rule=MEAZO())}
