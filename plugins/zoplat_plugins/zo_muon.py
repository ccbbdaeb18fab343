"""ZO-Muon: orthogonal steps, found by a few probes in a random subspace.

For a weight matrix W of shape (m, n) and a rank r:

    P       orthonormal columns, shape (m, r), made of a Gaussian; new every T steps
    Uᵢ      ~ N(0, 1), shape (r, n), i = 1 … N, new every step;  Zᵢ = P Uᵢ
    cᵢ = [ L(θ + εZᵢ) − L(θ) ] / ε           one slope for all blocks; vectors keep a plain Gaussian zᵢ
    Ĝ = (1/N) Σ cᵢUᵢ,  O = msign(Ĝ)          shape (r, n), singular values to about 1 by Newton–Schulz
    W ← W − η P O                            vectors: θ ← θ − η₁ (1/N) Σ cᵢzᵢ

With one direction, c is the central difference and only its sign counts. P O is a name as well: P, the Uᵢ and O are
made again from the slopes whenever a pass needs them.

Cost per step: N + 1 forward passes, 2 for N = 1. Memory: that of inference, plus P and O of one pass.

Source: Lang et al., "Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization", 2026,
arXiv:2602.17155, as in the authors' code for language models; Newton–Schulz with the five steps and coefficients of
Muon, which are our reading.
Differs: in that code, on the steps that renew P, each direction is probed with a P of its own and all are applied
with the last; here a step has one P. η₁ is 10⁻⁷ there whatever η is; here it is a fixed share of η (`vector_ratio`),
and so follows the schedule. Newton–Schulz runs in float32, there in bfloat16.
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
    LowRankSampler,
    Noise,
    Oracle,
    StepRule,
    Tile,
    hookimpl,
    number,
    orthonormal,
)
from zoplat_plugins.constant import Constant

COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5


def matrix_sign(a: Array) -> Array:
    """U_s V_sᵀ of a matrix U_s S V_sᵀ, singular values brought near 1 by Newton–Schulz; (r, n), best with r ≤ n."""
    one, cube, fifth = COEFFICIENTS
    x = a / ((a * a).sum() ** 0.5 + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = one * x + (cube * square + fifth * (square @ square)) @ x
    return x


@dataclass(frozen=True)
class Projected(LowRankSampler):
    """Z = P U on matrices, P orthonormal and kept for a while; plain Gaussian on vectors.

    Attributes:
        rank: r, columns of P where the matrix has as many rows; at least 1.
        interval: T, steps that share P; at least 1.
    """

    rank: int = number(64, at_least=1)
    interval: int = number(100, at_least=1)

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        return self.basis(tile, key, noise), self.mixture(tile, key, noise).T

    def basis(self, tile: Tile, key: Key, noise: Noise) -> Array:
        """The tile's rows of P, (rows, r)."""
        rows = tile.block.shape[0]
        draws = noise.normal((min(self.rank, rows), rows), key.epoch(self.interval), tile.block.name, "P")
        return tile.of(orthonormal(draws).T)

    def mixture(self, tile: Tile, key: Key, noise: Noise) -> Array:
        """U, (r, n)."""
        rows, columns = tile.block.shape
        return noise.normal((min(self.rank, rows), columns), key, tile.block.name, "U")

    def variance(self, shape: tuple[int, ...]) -> float:
        return min(self.rank, shape[0]) / shape[0] if len(shape) == 2 else 1.0


@dataclass(frozen=True)
class Orthogonal(LowRankSampler):
    """P msign(Σ cᵢUᵢ) on matrices, from the law of P and the Uᵢ, and the name and the cᵢ of each; by `ZOMuon` alone."""

    law: Projected
    slopes: tuple[tuple[Key, float], ...]

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        g: Any = sum(c * self.law.mixture(tile, name, noise) for name, c in self.slopes)
        return self.law.basis(tile, key, noise), matrix_sign(g).T


@dataclass(frozen=True)
class ZOMuon(Estimator[None]):
    """Slopes along subspace directions, their mean made orthogonal.

    Attributes:
        queries: N, directions of one step; at least 1.
        vector_ratio: η₁/η, step size of vectors over that of matrices; not negative.
        sampler: law of Z; "projected", of any rank and interval.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(4, at_least=1)
    vector_ratio: float = number(1e-5, at_least=0)
    sampler: Projected = Projected()
    rule: StepRule = Constant(lr=1e-2)
    bias = "steps of matrices are orthogonal, whatever the length of the gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(isinstance(self.sampler, Projected), "sampler", f"must be 'projected', got {self.sampler}")

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        drawn = oracle.draw(self.sampler, self.queries)
        slopes, losses = oracle.slopes(drawn, self.eps, "two" if self.queries == 1 else "one")
        g = Direction.mean(slopes, drawn)
        terms = tuple((draw.key, c) for draw, c in g)  # P msign(Ĝ) by name, for Ĝ in the subspace of P
        orthogonal = Direction.of(Orthogonal(self.sampler, terms), terms[0][0]) if terms else g
        vectors = oracle.space.part(lambda block: len(block.shape) == 1)
        matrices = oracle.space.everything - vectors
        within = next((draw.part for draw, _ in g if draw.part is not None), matrices)  # where the draws lie
        step = self.vector_ratio * g.on(vectors) + orthogonal.on(matrices & within)
        yield Estimate(step, losses, self.eps)


@hookimpl
def zoplat_samplers() -> dict[str, Projected]:
    return {"projected": Projected()}


@hookimpl
def zoplat_estimators() -> dict[str, ZOMuon]:
    return {"zo-muon": ZOMuon()}
