"""MeZO: fine-tune with forward passes only.

    z ~ N(0, I)                                  one random direction, named by a seed
    g = [ L(θ + εz) − L(θ − εz) ] / 2ε           two forward passes, same batch
    θ ← θ − η g z

With n directions the step is the mean of their gⱼzⱼ. One-sided, g = [ L(θ + εz) − L(θ) ] / ε,
and all directions share L(θ).

Cost per step: 2n forward passes for n directions, n + 1 one-sided. Memory: that of
inference.

Source: Malladi et al., "Fine-Tuning Language Models with Just Forward Passes",
NeurIPS 2023, arXiv:2305.17333, Algorithms 1 and 2 (n-SPSA).
Differs: Algorithm 2 draws a new batch for each direction (`batches` = "fresh"); by
default, as in the authors' code, the n directions of a step share one batch. In that
code the number of directions is 1 unless its schedule is named too. Its "linear" is
⌊pn⌋ after a share p of the run, at least 1, and so gets to n at the very end; here it
is 1 + ⌊pn⌋. The paper raises η with n; here η is left alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoplat import ZERO, Direction, Estimate, Estimator, Oracle, Sampler, StepRule, ZoplatError, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class MeZO(Estimator):
    """Differences of losses along random directions.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive.
        queries: directions n averaged in one step; at least 1.
        schedule: "constant": n at every step; "linear": 1 to n, each for an equal share of the run, whose length
            must be known (`--steps` or `--max-passes`).
        side: "two" for central differences, "one" for forward differences from one L(θ).
        batches: "shared" by the directions of a step, or a "fresh" one for each direction after the first.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    queries: int = 1
    schedule: Literal["constant", "linear"] = "constant"
    side: Literal["two", "one"] = "two"
    batches: Literal["shared", "fresh"] = "shared"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ZoplatError(f"eps must be positive, got {self.eps}  (--eps)")
        if self.queries < 1:
            raise ZoplatError(f"queries must be at least 1, got {self.queries}  (--queries)")

    @property
    def has_horizon(self) -> bool:
        return self.schedule == "linear"

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        directions = oracle.draw(self.sampler, self._count(oracle))
        if self.batches == "shared":
            slopes, seen = self._slopes(oracle, directions)
        else:
            slopes, seen = [], []
            for j, z in enumerate(directions):
                found, told = self._slopes(oracle.on_batch(j) if j else oracle, [z])
                slopes, seen = slopes + found, seen + told
        g = ZERO
        for projected_grad, z in zip(slopes, directions, strict=True):
            g += projected_grad / len(directions) * z
        yield Estimate(g, seen, self.eps)

    def _count(self, oracle: Oracle) -> int:
        """Directions of this step."""
        return self.queries if self.schedule == "constant" else 1 + int((oracle.progress or 0.0) * self.queries)

    def _slopes(self, oracle: Oracle, directions: Sequence[Direction]) -> tuple[list[float], list[float]]:
        """The projected gradient along each direction, and the losses it was made of."""
        if self.side == "one":
            base, *ups = seen = oracle.losses(ZERO, *(self.eps * z for z in directions))
            return [(up - base) / self.eps for up in ups], seen
        seen = oracle.losses(*(radius * z for z in directions for radius in (self.eps, -self.eps)))
        return [(up - down) / (2 * self.eps) for up, down in zip(seen[::2], seen[1::2], strict=True)], seen


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"mezo": MeZO()}
