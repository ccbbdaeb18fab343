"""MeZO: fine-tune with forward passes only.

    z ~ N(0, I)                                  one random direction, named by a seed
    g = [ L(θ + εz) − L(θ − εz) ] / 2ε           two forward passes, same batch
    θ ← θ − η g z

With n directions the step is the mean of their gⱼzⱼ. One-sided, g = [ L(θ + εz) − L(θ) ] / ε, and all directions
share L(θ).

Cost per step: 2n forward passes for n directions, n + 1 one-sided. Memory: that of inference.

Source: Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", NeurIPS 2023, arXiv:2305.17333,
Algorithms 1 and 2 (n-SPSA).
Differs: Algorithm 2 draws a new batch for each direction (`batches` = "fresh"); by default, as in the authors' code,
the n directions of a step share one batch. In that code the number of directions is 1 unless its schedule is named
too. Its "linear" is ⌊pn⌋ after a share p of the run, at least 1, and so gets to n at the very end; here it is
1 + ⌊pn⌋. The paper raises η with n; here η is left alone. Decay is on matrices only; the code's RoBERTa tree decays
vectors too, and its other tree goes by names ("bias", "layer_norm", "layernorm"), so that it decays LLaMA's final norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zoplat import Around, Direction, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class MeZO(Estimator[None]):
    """Differences of losses along random directions.

    Attributes:
        schedule: "constant": n at every step; "linear": 1 to n, each for an equal share of the run, whose length
            must be known (`--steps` or `--max-passes`).
        side: "two" for central differences, "one" for forward differences from one L(θ).
        batches: "shared" by the directions of a step, or a "fresh" one for each direction after the first.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(1, at_least=1, at_most=10**6)
    schedule: Literal["constant", "linear"] = "constant"
    side: Literal["two", "one"] = "two"
    batches: Literal["shared", "fresh"] = "shared"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def has_horizon(self) -> bool:
        return self.schedule == "linear"

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        n = self.queries if self.schedule == "constant" else 1 + int((oracle.progress or 0.0) * self.queries)
        directions = oracle.draw(self.sampler, n)
        slopes, losses = list[float](), list[float]()
        for j, some in enumerate([directions] if self.batches == "shared" else [[z] for z in directions]):
            found = (oracle.on_batch(j) if j else oracle).slopes(some, self.eps, self.side)
            slopes += found.projected_grads
            losses += found.losses
        yield Estimate(Direction.mean(slopes, directions), losses, self.eps, slopes)


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"mezo": MeZO()}
