"""Forward differences along triangular perturbations.

    z = √6 · (u + u′ − 1),  u, u′ ~ U[0, 1)      entries on [−√6, √6), mean 0, variance 1
    gᵢ = [ L(θ + εzᵢ) − L(θ) ] / ε               i = 1 … n, all with one base L(θ)
    θ ← θ − η · (1/n) Σ gᵢ zᵢ

Cost per step: n + 1 forward passes for n directions, asked for in one call, so that a
device which can answer many points at once may do so. Memory: that of inference.

Source: an example; one-sided differences are as old as Kiefer & Wolfowitz, "Stochastic
Estimation of the Maximum of a Regression Function", Ann. Math. Statist. 23, 1952.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import ZERO, Estimate, Estimator, Key, Noise, Oracle, Sampler, StepRule, Tile, ZoplatError, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class Triangular(Sampler):
    """Independent entries, each the sum of two uniform numbers; bounded, variance 1."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.uniform(tile.shape, key, tile, "first")
        out += noise.uniform(tile.shape, key, tile, "second")
        out -= 1
        out *= 6**0.5


@dataclass(frozen=True)
class ForwardDifference(Estimator):
    """One base and one probe for each direction.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive.
        queries: directions n averaged in one step; at least 1.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    queries: int = 4
    sampler: Sampler = Triangular()
    rule: StepRule = Constant(lr=1e-6)

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ZoplatError(f"eps must be positive, got {self.eps}  (--eps)")
        if self.queries < 1:
            raise ZoplatError(f"queries must be at least 1, got {self.queries}  (--queries)")

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        directions = oracle.draw(self.sampler, self.queries)
        base, *ups = oracle.losses(ZERO, *(self.eps * z for z in directions))
        g = ZERO
        for up, z in zip(ups, directions, strict=True):
            g += (up - base) / self.eps / self.queries * z
        yield Estimate(g, [base, *ups], self.eps)


@hookimpl
def zoplat_samplers() -> dict[str, Sampler]:
    return {"triangular": Triangular()}


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"forward-difference": ForwardDifference()}
