"""DPZero: the slope of each row clipped, and their sum hidden by secret noise.

    z ~ N(0, I)                                      one random direction, named by the seed
    δᵢ = [ L(θ + εz; ξᵢ) − L(θ − εz; ξᵢ) ] / 2ε      the slope of row i alone, for every row of the batch
    g = ( Σ clip(δᵢ, −C, C) + N(0, (2Cσ)²) ) / B     noise without a seed, once a step
    θ ← θ − η g z

To replace one row by any other moves the sum by 2C at most, and nothing else that a step does depends on the rows: the
direction comes from the seed, batches from the seed and the number of rows. So the weights are differentially private
in the training rows, and `zoplat privacy` says by how much.

Cost per step: 2 forward passes. Memory: that of inference.

Source: Zhang et al., "DPZero: Private Fine-Tuning of Language Models without Backpropagation", ICML 2024,
arXiv:2310.09639, and the code of its OPT experiments (Liang137/DPZero). Tang et al., "Private Fine-tuning of Large
Language Models with Zeroth-order Optimization", 2024, arXiv:2401.04343 (DP-ZO), hides a scalar in the same way.
Differs: the noise comes from the operating system, not from a generator that was seeded. A row whose slope is not a
number counts as 0, and the step is made: one that is skipped would show that row; in the code the whole step is not
a number then. σ is given, and `zoplat privacy --epsilon` finds it for a target; the code finds it by itself, and counts
batches as if each were drawn by Poisson sampling, which those of shuffled epochs are not. Here no amplification is
counted, so that the same ε takes more noise. The class `DPZero` that the authors publish beside their experiments
draws noise anew for each array, and does not divide it by B; here, as in the experiments, all arrays share one g.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Around, Estimate, Estimator, Oracle, Sampler, StepRule, ZoplatError, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class DPZero(Estimator[None]):
    """Central differences of each row along one direction, clipped, added up, and hidden by secret noise.

    Attributes:
        clip: C, the largest slope of a row, in units of the loss over units of the parameters; positive.
        noise: σ, standard deviation of the noise over 2C, by which one row can change the sum of a batch; not
            negative. With 0 nothing is private.
        rule: how the estimates become steps. It must do so by the estimates alone.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    clip: float = number(10.0, above=0, search=Around(10))
    noise: float = number(1.0, at_least=0)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"row losses"})

    @property
    def bias(self) -> str:
        return "slopes of rows are clipped"

    @property
    def noise_multiplier(self) -> float:
        return self.noise

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        ups, downs = oracle.row_losses(self.eps * z, -self.eps * z, skips=False)
        clipped = [self._clipped((up - down) / (2 * self.eps)) for up, down in zip(ups, downs, strict=True)]
        [normal] = oracle.secret_normals(1)
        noisy = (math.fsum(clipped) + 2 * self.clip * self.noise * normal) / len(clipped)
        known = len(oracle.answers)
        yield Estimate(noisy * z, eps=self.eps, slopes=[noisy])  # without losses, which no rule may see
        if len(oracle.answers) != known:
            raise ZoplatError(
                f"'dp' hides the rows by noise on its slopes, and {type(self.rule).__name__} asks for losses of its "
                "own, without noise. Use another --step-rule, such as constant."
            )

    def _clipped(self, slope: float) -> float:
        """A slope within [−C, C]; 0 where it is not a number."""
        return 0.0 if math.isnan(slope) else max(-self.clip, min(self.clip, slope))


@hookimpl
def zoplat_estimators() -> dict[str, DPZero]:
    return {"dp": DPZero()}
