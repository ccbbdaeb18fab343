"""BSZO: slopes along a few directions, each shrunk by a running estimate of their noise.

    z₁ … z_k ~ N(0, I)                                  the subspace of the step
    yᵢ = [ L(θ + εzᵢ) − L(θ) ] / ε                      k + 1 losses of one batch, asked together
    μᵢ = 0,  vᵢ = σ_p²                                   what is believed of the slopes ⟨∇L, zᵢ⟩ beforehand
    for i = 1 … k, and m − k times for the i of the largest vᵢ:
        s ← (1 − α) s + α (yᵢ − μᵢ)²                    s starts at σ_n² and is kept from step to step
        σ² = max(s, σ_n²/100),  K = vᵢ/(vᵢ + σ²)
        μᵢ ← μᵢ + K (yᵢ − μᵢ),  vᵢ ← (1 − K) vᵢ
    θ ← θ − η Σ μᵢ zᵢ

It is a Kalman filter for k slopes. They are believed to be independent beforehand and are measured one at a time, so
that the covariance stays diagonal, its main axes are the zᵢ, and k means and k variances are all of it. The step is a
sum and not a mean. As registered, σ_p = σ_n = √(n/10⁶) for n trained weights, but at least 1.

Cost per step: k + 1 forward passes, m + 1 if values that count again are measured again. Memory: that of inference,
and a number.

Source: Feng and Huang, "Robust and Efficient Zeroth-Order LLM Fine-Tuning via Adaptive Bayesian Subspace Optimizer",
2026, arXiv:2601.01452. The rule is that of the authors' code, AeonianQuill/BSZO; of the paper only the abstract was at
hand.
Differs: the code's version 3 takes the m − k last values from the first k, as here by default; its version 4 measures
them again (`remeasure`), along the main axis of the covariance, which is one of the zᵢ. It adds 10⁻¹⁰ to the variances
after each update and leaves out terms with |μᵢ| ≤ 10⁻¹⁰; here neither. Of equal variances the last counts as the
largest, as in the code for m = k + 1. The code's σ_p and σ_n have no least value; at √(n/10⁶) slopes of a few thousand
weights are all taken for noise, and steps vanish. m is at least k. The two-sided differences of the code, which no
script of its authors asks for, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

from zoplat import (
    ZERO,
    Around,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Sampler,
    StepRule,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class Posterior:
    """What is believed of the slopes, given the measurements so far.

    Attributes:
        means: μ, one for each direction, in the units of a slope.
        variances: v, those of the slopes around μ.
        square: s, the running mean of squared residuals.
    """

    means: list[float]
    variances: list[float]
    square: float

    def update(self, i: int, y: float, alpha: float, least: float) -> None:
        """Take a measurement y of slope i, with the weight `alpha` in s and at least the variance `least` of noise."""
        residual = y - self.means[i]
        self.square = (1 - alpha) * self.square + alpha * residual * residual
        gain = self.variances[i] / (self.variances[i] + max(self.square, least))
        self.means[i] += gain * residual
        self.variances[i] *= 1 - gain

    def least_known(self) -> int:
        """The slope with the largest variance; of equal ones the last."""
        return max(range(len(self.means)), key=lambda i: (self.variances[i], i))


@dataclass
class State:
    """s, the running mean of squared residuals, in the units of a squared slope."""

    square: float


@dataclass(frozen=True)
class BSZO(Estimator[State]):
    """Posterior means of the slopes along k directions, whose noise is estimated from what the means left over.

    Attributes:
        queries: k, directions of one step; at least 1.
        extra: m − k, how often a value counts again, that of the largest variance each time; not negative.
        remeasure: whether it is measured again, at a pass each, along the same direction and on the same batch.
        sigma_prior: σ_p, standard deviation that slopes are expected to have; 0 for √(n/10⁶), but at least 1.
        sigma_noise: σ_n, standard deviation of their noise at the start, the least later being its tenth; 0 as there.
        alpha: α, weight of a measurement in the estimate of the noise, in [0, 1); 0 keeps σ = σ_n.
    """

    eps: float = number(1e-4, above=0, search=Around(3))
    queries: int = number(2, at_least=1, at_most=10**6)
    extra: int = number(1, at_least=0)
    remeasure: bool = False
    sigma_prior: float = number(0.0, at_least=0)
    sigma_noise: float = number(0.0, at_least=0)
    alpha: float = number(0.1, at_least=0, below=1)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-7)
    bias = "slopes are shrunk towards 0, by more where their noise seems larger, and their sum is not divided by k"

    def init(self, space: ParameterSpace) -> State:
        return State((self.sigma_noise or usual_slope(space)) ** 2)

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        directions = oracle.draw(self.sampler, self.queries)
        slopes, losses = oracle.slopes(directions, self.eps, "one")
        usual = usual_slope(oracle.space)
        prior, least = (self.sigma_prior or usual) ** 2, ((self.sigma_noise or usual) / 10) ** 2
        belief = Posterior([0.0] * self.queries, [prior] * self.queries, state.square)
        for i, y in enumerate(slopes):
            belief.update(i, y, self.alpha, least)
        for _ in range(self.extra):
            i = belief.least_known()
            if self.remeasure:
                losses = [*losses, *oracle.losses(self.eps * directions[i])]
                slopes[i] = (losses[-1] - losses[0]) / self.eps
            belief.update(i, slopes[i], self.alpha, least)
        step = sum((mean * z for mean, z in zip(belief.means, directions, strict=True)), ZERO)
        yield Estimate(step, losses, self.eps, slopes)
        if not oracle.left_out:
            state.square = belief.square


def usual_slope(space: ParameterSpace) -> float:
    """√(n/10⁶) for n trained weights, at least 1."""
    return max(1.0, sqrt(space.size / 1e6))


@hookimpl
def zoplat_estimators() -> dict[str, BSZO]:
    return {"bszo": BSZO()}
