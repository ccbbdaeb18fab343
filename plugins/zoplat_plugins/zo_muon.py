"""ZO-Muon: orthogonal steps, found by a few probes in a random subspace.

For a weight matrix W of shape (m, n) and a rank r:

    P       orthonormal columns, shape (m, r), made of a Gaussian; new every T steps
    Uᵢ      ~ N(0, 1), shape (r, n), i = 1 … N, new every step;  Zᵢ = P Uᵢ
    cᵢ = [ L(θ + εZᵢ) − L(θ) ] / ε           one slope for all blocks; vectors keep a plain Gaussian zᵢ
    Ĝ = (1/N) Σ cᵢUᵢ,  O = msign(Ĝ)          shape (r, n), singular values to about 1 by Newton–Schulz
    W ← W − η P O                            vectors: θ ← θ − η₁ (1/N) Σ cᵢzᵢ

With one direction, c is the central difference and only its sign counts. P O is a name as well: P, the Uᵢ and O are
made again from the slopes whenever a pass needs them.

With `leading` = k, O has the k leading singular directions alone, of a running mean M, by one round of power iteration
from where the last step came to (ZO-MOPI):

    M ← β M + (1 − β) Ĝ                      M = Ĝ on the first step; M ← PᵀPᵒ M where P takes the place of Pᵒ
    V ← rows of V MᵀM, made orthonormal      shape (k, n); a Gaussian made orthonormal where P is new
    O = U V                                  U: the columns of M Vᵀ, made of length 1, shape (r, k)

Cost per step: N + 1 forward passes, 2 for N = 1. Memory: that of inference, plus P, r numbers for each row of a
matrix, and O of one pass; with `leading` also M and V, r + k numbers for each column of a matrix.

Source: Lang et al., "Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization", 2026,
arXiv:2602.17155, as in the authors' code for language models; Newton–Schulz with the five steps and coefficients of
Muon, which are our reading. `leading`: Chen and Ma, "Accelerating Zeroth-Order Spectral Optimization with Partial
Orthogonalization from Power Iteration", 2026, arXiv:2605.09034, as in its authors' code.
Differs: in that code, on the steps that renew P, each direction is probed with a P of its own and all are applied
with the last; here a step has one P. η₁ is 10⁻⁷ there whatever η is; here it is a fixed share of η (`vector_ratio`),
and so follows the schedule. Newton–Schulz runs in float32, there in bfloat16. With `leading`: that code keeps M as it
is when P is renewed, which the paper carries over, as here; vectors have a running mean there and none here; a step
whose losses are all equal moves nothing here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import (
    Around,
    Array,
    Buffer,
    Direction,
    Estimate,
    Estimator,
    Key,
    LowRankSampler,
    Noise,
    Oracle,
    ParameterSpace,
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
        basis = noise.orthonormal((min(self.rank, rows), rows), key.epoch(self.interval), tile.block.name, "P")
        return tile.of(basis.T)

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


@dataclass
class State:
    """M and V of each matrix, with `leading`; the step that they are of, −1 before the first."""

    m: Buffer
    v: Buffer
    step: int = -1


@dataclass(frozen=True)
class Leading(LowRankSampler):
    """P U V on matrices, U and V from M and V as they stand; by `ZOMuon` alone, under the name that P has."""

    law: Projected
    m: Buffer
    v: Buffer

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        m = self.m.arrays[tile.block.name]
        v = self.v.arrays[tile.block.name][: m.shape[1]]  # a matrix has no more than n of them
        u = m @ v.T
        for k in range(len(v)):
            column = u[:, k : k + 1]
            column /= (column * column).sum() ** 0.5
        return self.law.basis(tile, key, noise) @ u, v.T


@dataclass(frozen=True)
class ZOMuon(Estimator[State | None]):
    """Slopes along subspace directions, their mean made orthogonal.

    Attributes:
        queries: N, directions of one step; at least 1.
        vector_ratio: η₁/η, step size of vectors over that of matrices; not negative.
        leading: k, singular directions of a step, by power iteration on a running mean; 0 for all, by Newton–Schulz.
        beta: β, share of the running mean that stays, with `leading`; in [0, 1).
        sampler: law of Z; "projected", of any rank and interval.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(4, at_least=1, at_most=10**6)
    vector_ratio: float = number(1e-5, at_least=0)
    leading: int = number(0, at_least=0)
    beta: float = number(0.0, at_least=0, below=1)
    sampler: Projected = Projected()
    rule: StepRule = Constant(lr=1e-2)
    has_one_radius = True
    bias = "steps of matrices are orthogonal, whatever the length of the gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(isinstance(self.sampler, Projected), "sampler", f"must be 'projected', got {self.sampler}")
        self.require(self.leading > 0 or self.beta == 0, "beta", "is that of a running mean: set leading too, above 0")

    def init(self, space: ParameterSpace) -> State | None:
        if not self.leading:
            return None
        matrices = space.part(lambda block: len(block.shape) == 2)
        m = space.buffer("zo-muon/m", on=matrices, rows=self.sampler.rank)
        return State(m, space.buffer("zo-muon/v", on=matrices, rows=min(self.leading, self.sampler.rank)))

    def estimate(self, oracle: Oracle, state: State | None) -> Iterator[Estimate]:
        drawn = oracle.draw(self.sampler, self.queries)
        slopes, losses = oracle.slopes(drawn, self.eps, "two" if self.queries == 1 else "one")
        g = Direction.mean(slopes, drawn)
        vectors = oracle.space.part(lambda block: len(block.shape) == 1)
        matrices = oracle.space.everything - vectors
        within = next((draw.part for draw, _ in g if draw.part is not None), matrices)  # where the draws lie
        step = self.vector_ratio * g.on(vectors)
        terms = tuple((draw.key, c) for draw, c in g)  # P msign(Ĝ) by name, for Ĝ in the subspace of P
        if terms and state:
            self._iterate(oracle, state, terms)
            step += Direction.of(Leading(self.sampler, state.m, state.v), terms[0][0]).on(matrices & within)
        elif terms:
            step += Direction.of(Orthogonal(self.sampler, terms), terms[0][0]).on(matrices & within)
        yield Estimate(step, losses, self.eps, slopes, is_shaped=True)

    def _iterate(self, oracle: Oracle, state: State, terms: tuple[tuple[Key, float], ...]) -> None:
        """Bring M and V to this step."""
        law, noise, now = self.sampler, oracle.space.noise, terms[0][0]
        before = now.at(state.step).epoch(law.interval) if state.step >= 0 else None
        renewed = before != now.epoch(law.interval)

        def kernel(block: Tile, m: Array, v: Array) -> None:
            g: Any = sum(c * law.mixture(block, key, noise) for key, c in terms)
            if before and renewed:
                m[:] = law.basis(block, now, noise).T @ (law.basis(block, now.at(state.step), noise) @ m)
            m *= self.beta
            m += (1 - self.beta if before else 1) * g
            v = v[: m.shape[1]]
            if renewed:
                v[:] = noise.normal(v.shape, now.epoch(law.interval), block.block.name, "V")
                orthonormal(v)
            v[:] = orthonormal((v @ m.T) @ m)

        oracle.space.renew(kernel, state.m, state.v)
        state.step = oracle.step


@hookimpl
def zoplat_samplers() -> dict[str, Projected]:
    return {"projected": Projected()}


@hookimpl
def zoplat_estimators() -> dict[str, ZOMuon]:
    return {"zo-muon": ZOMuon()}
