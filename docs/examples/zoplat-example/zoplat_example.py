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

from zoplat import (
    Around,
    Array,
    Direction,
    Estimate,
    Estimator,
    Key,
    Noise,
    Oracle,
    Sampler,
    StepRule,
    Tile,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class Triangular(Sampler):
    """Independent entries, each the sum of two uniform numbers; bounded, variance 1."""

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.uniform(tile.shape, key, tile, "first")
        out += noise.uniform(tile.shape, key, tile, "second")
        out -= 1
        out *= 6**0.5


@dataclass(frozen=True)
class ForwardDifference(Estimator[None]):
    """One base and one probe for each direction; see `Estimator` for fields that most methods have.

    Attributes:
        queries: directions n averaged in one step; at least 1.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(4, at_least=1)
    sampler: Sampler = Triangular()
    rule: StepRule[Any] = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        directions = oracle.draw(self.sampler, self.queries)
        slopes, losses = oracle.slopes(directions, self.eps, side="one")
        yield Estimate(Direction.mean(slopes, directions), losses, self.eps, slopes)


zoplat_api = 1  # the version of the hooks that this was written for


@hookimpl
def zoplat_samplers() -> dict[str, Triangular]:
    return {"triangular": Triangular()}


@hookimpl
def zoplat_estimators() -> dict[str, ForwardDifference]:
    return {"forward-difference": ForwardDifference()}
