"""ConMeZO: probe inside a cone around a momentum of past estimates.

    u ~ N(0, I)
    z = √d cos φ · m/‖m‖ + sin φ · u         d weights in all; z = u while m is zero
    g = [ L(θ + εz) − L(θ − εz) ] / 2ε
    θ ← θ − η g z                            along z itself, not along m
    m ← β m + (1 − β) g z                    one m, one norm, one cone for all blocks

φ = π/2 is MeZO. Only the line of m matters, not its sign: g z is even in z.

Cost per step: 2 forward passes, one more pass over θ to renew m, one more reading of m for its norm. Memory: m, one
number a weight.

Source: Behric et al., "ConMeZO: Adaptive Descent-Direction Sampling for Gradient-Free Finetuning of Large Language
Models", AISTATS 2026, arXiv:2511.02757, as in the authors' code of the synthetic experiment.
Differs: the authors' language-model code starts m as a Gaussian of length √d, follows ‖m‖ by a formula instead of
measuring it, and lets β rise from 0.1 (`beta_warmup`, 2000 for OPT, 1000 for RoBERTa; there each β acts a step late);
it knows no weight decay and no schedule.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import (
    Around,
    Array,
    Buffer,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Sampler,
    StepRule,
    held,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian

NOTHING = 1e-8  # ‖m‖ below which there is no momentum to look along


@dataclass
class State:
    """m, the moving mean of the estimates."""

    m: Buffer


@dataclass(frozen=True)
class ConMeZO(Estimator[State]):
    """Central difference along a direction near the momentum.

    Attributes:
        angle: φ, half the angle of the cone, in radians; above 0, at most π/2.
        beta: β, weight of the past in m; in [0, 1).
        beta_warmup: steps until β is reached, from 0.1 in the first tenth of them; 0 for none.
        sampler: law of u.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    angle: float = number(1.35, above=0, at_most=math.pi / 2)
    beta: float = number(0.99, at_least=0, below=1)
    beta_warmup: int = number(0, at_least=0)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-7)
    has_one_radius = True

    @property
    def bias(self) -> str:
        return "" if self.angle == math.pi / 2 else "directions lean towards the momentum"

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("conmezo/m"))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        length = oracle.space.norm(held(state.m))
        if length >= NOTHING:
            along = math.sqrt(oracle.space.size) * math.cos(self.angle) / length
            z = along * held(state.m) + math.sin(self.angle) * z
        [projected_grad], losses = oracle.slopes([z], self.eps)
        yield Estimate(projected_grad * z, losses, self.eps, [projected_grad])

        beta = self._beta(oracle.step)

        def kernel(theta: Array, z: Array, m: Array) -> None:
            m *= beta
            m += (1 - beta) * projected_grad * z

        oracle.space.sweep(kernel, z, state.m)

    def _beta(self, step: int) -> float:
        first = self.beta_warmup / 10
        if step > self.beta_warmup or not self.beta_warmup:
            return self.beta
        share = max(0.0, step - first) / (self.beta_warmup - first)
        return self.beta - (self.beta - 0.1) / (1 + 8 * share**1.8) ** 3


@hookimpl
def zoplat_estimators() -> dict[str, ConMeZO]:
    return {"conmezo": ConMeZO()}
