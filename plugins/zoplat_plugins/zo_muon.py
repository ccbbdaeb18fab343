"""ZO-Muon: orthogonal steps, found by a few probes in a random subspace.

For a weight matrix W of shape (m, n) and a rank r:

    P       orthonormal columns, shape (m, r), made of a Gaussian; new every T steps
    Uᵢ      ~ N(0, 1), shape (r, n), i = 1 … N, new every step;  Zᵢ = P Uᵢ
    cᵢ = [ L(θ + εZᵢ) − L(θ) ] / ε           one slope for all blocks; vectors keep a plain Gaussian zᵢ
    Ĝ = (1/N) Σ cᵢUᵢ,  O = msign(Ĝ)          shape (r, n), singular values to about 1 by Newton–Schulz
    W ← W − η P O                            vectors: θ ← θ − η₁ (1/N) Σ cᵢzᵢ

With one direction, c is the central difference and only its sign counts. P O is a name as well: P, the
Uᵢ and O are made again from the slopes whenever a pass needs them.

Cost per step: N + 1 forward passes, 2 for N = 1. Memory: that of inference, plus P and O of one pass.

Source: Lang et al., "Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization", 2026,
arXiv:2602.17155, as in the authors' code for language models; Newton–Schulz with the five steps and
coefficients of Muon, which are our reading.
Differs: in that code, on the steps that renew P, each direction is probed with a P of its own and all are
applied with the last; here a step has one P. η₁ is 10⁻⁷ there whatever η is; here it is a fixed share of η
(`vector_ratio`), and so follows the schedule. Newton–Schulz runs in float32, there in bfloat16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import (
    ZERO,
    Direction,
    Estimate,
    Estimator,
    Key,
    Noise,
    Oracle,
    Sampler,
    StepRule,
    Tile,
    ZoplatError,
    hookimpl,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.subzero import orthonormal

COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5


def matrix_sign(a: Any) -> Any:
    """U_s V_sᵀ of a matrix U_s S V_sᵀ, singular values brought near 1 by Newton–Schulz; (r, n), best with r ≤ n."""
    one, cube, fifth = COEFFICIENTS
    x = a / ((a * a).sum() ** 0.5 + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = one * x + (cube * square + fifth * (square @ square)) @ x
    return x


@dataclass(frozen=True)
class Projected(Sampler):
    """Z = P U on matrices, P orthonormal and kept for a while; plain Gaussian on vectors.

    Attributes:
        rank: r, columns of P where the matrix has as many rows; at least 1.
        interval: T, steps that share P; at least 1.
    """

    rank: int = 64
    interval: int = 100

    def __post_init__(self) -> None:
        for name in ("rank", "interval"):
            if getattr(self, name) < 1:
                raise ZoplatError(f"{name} must be at least 1, got {getattr(self, name)}  (-o sampler.{name}=…)")

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        factors = self.factors(tile, key, noise)
        out[:] = factors[0] @ factors[1].T if factors else noise.normal(tile.shape, key, tile)

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Any, Any] | None:
        if not tile.is_matrix:
            return None
        return self.basis(tile, key, noise), self.mixture(tile, key, noise).T

    def basis(self, tile: Tile, key: Key, noise: Noise) -> Any:
        """The tile's rows of P, (rows, r)."""
        rows = tile.block.shape[0]
        epoch = key.at(key.step - key.step % self.interval)
        return tile.of(orthonormal(noise.normal((min(self.rank, rows), rows), epoch, tile.block.name, "P")).T)

    def mixture(self, tile: Tile, key: Key, noise: Noise) -> Any:
        """U, (r, n)."""
        rows, columns = tile.block.shape
        return noise.normal((min(self.rank, rows), columns), key, tile.block.name, "U")

    def variance(self, shape: tuple[int, ...]) -> float:
        return min(self.rank, shape[0]) / shape[0] if len(shape) == 2 else 1.0


@dataclass(frozen=True)
class Orthogonal(Sampler):
    """P msign(Σ cᵢUᵢ) on matrices, zero on vectors: a vector that is told by its slopes, made by `ZOMuon` alone.

    Attributes:
        law: of P and the Uᵢ.
        slopes: the name of each Uᵢ, and cᵢ.
    """

    law: Projected
    slopes: tuple[tuple[Key, float], ...]

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        factors = self.factors(tile, key, noise)
        out[:] = factors[0] @ factors[1].T if factors else 0.0

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Any, Any] | None:
        if not tile.is_matrix:
            return None
        g = sum(c * self.law.mixture(tile, name, noise) for name, c in self.slopes)
        return self.law.basis(tile, key, noise), matrix_sign(g).T


@dataclass(frozen=True)
class ZOMuon(Estimator):
    """Slopes along subspace directions, their mean made orthogonal.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive.
        queries: N, directions of one step; at least 1.
        vector_ratio: η₁/η, step size of vectors over that of matrices; not negative.
        sampler: law of Z; "projected", of any rank and interval.
        rule: how the step becomes a change of θ.
    """

    eps: float = 1e-3
    queries: int = 4
    vector_ratio: float = 1e-5
    sampler: Sampler = Projected()
    rule: StepRule = Constant(lr=1e-2)

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ZoplatError(f"eps must be positive, got {self.eps}  (--eps)")
        if self.queries < 1:
            raise ZoplatError(f"queries must be at least 1, got {self.queries}  (--queries)")
        if not self.vector_ratio >= 0:
            raise ZoplatError(f"vector_ratio must be 0 or more, got {self.vector_ratio}  (-o vector_ratio=…)")
        if not isinstance(self.sampler, Projected):
            raise ZoplatError(f"zo-muon needs the directions of 'projected', got {self.sampler}  (--sampler projected)")

    @property
    def bias(self) -> str:
        return "steps of matrices are orthogonal, whatever the length of the gradient"

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        drawn = oracle.draw(self.sampler, self.queries)
        slopes, losses = self._slopes(oracle, drawn)
        g = ZERO
        for z, slope in zip(drawn, slopes, strict=True):
            g += slope / self.queries * z
        matrices = oracle.space.part(lambda block: len(block.shape) == 2)
        vectors = oracle.space.everything - matrices
        step = self.vector_ratio * g.on(vectors) + self._orthogonal(g).on(matrices)
        yield Estimate(step, losses, self.eps)

    def _slopes(self, oracle: Oracle, drawn: list[Direction]) -> tuple[list[float], list[float]]:
        """The slope along each direction, and the losses seen."""
        if len(drawn) == 1:
            up, down = oracle.losses(+self.eps * drawn[0], -self.eps * drawn[0])
            return [(up - down) / (2 * self.eps)], [up, down]
        base, *ups = losses = oracle.losses(ZERO, *(self.eps * z for z in drawn))
        return [(up - base) / self.eps for up in ups], losses

    def _orthogonal(self, g: Direction) -> Direction:
        """P msign(Ĝ) by name, for Ĝ in the subspace of P."""
        assert isinstance(self.sampler, Projected)
        slopes = tuple((draw.key, c) for draw, c in g)
        parts = [draw.part for draw, _ in g if draw.part is not None]
        step = Direction.of(Orthogonal(self.sampler, slopes), slopes[0][0]) if slopes else ZERO
        return step.on(parts[0]) if parts else step


@hookimpl
def zoplat_samplers() -> dict[str, Sampler]:
    return {"projected": Projected()}


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"zo-muon": ZOMuon()}
