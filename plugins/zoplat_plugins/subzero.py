"""SubZero: zeroth-order steps in random subspaces of every matrix.

For a weight matrix W of shape (m, n) and a rank r far below both:

    U, V    orthonormal columns, shapes (m, r) and (n, r), made of Gaussians; new every T₀ steps
    Ψ       ~ N(0, 1), shape (r, r), a new one every step
    Z = c U Ψ Vᵀ,  c = √(mn)/r               vectors keep a plain Gaussian
    g = [ L(θ + εZ) − L(θ − εZ) ] / 2ε       one slope for all blocks
    W ← W − η g Z

SubZero is MeZO with another law for z, so this file holds only that law. U and V are not state: they are named by the
last step divisible by T₀, so a run that goes on makes them again.

Cost per step: 2 forward passes; U and V by Gram–Schmidt, about 4(m + n)r² operations a matrix every T₀ steps. Memory:
that of inference, plus U and V, r(m + n) numbers a matrix, and the factors of one pass.

Source: Yu et al., "Zeroth-Order Fine-Tuning of LLMs in Random Subspaces", ICCV 2025, arXiv:2410.08989.
Differs: c is that of the authors' code, which makes Z as long as a dense draw, so that MeZO's ε and η carry over; the
paper's Z is U Ψ Vᵀ alone (`is_scaled=false`). c is not the same for all matrices, so no ε and η turn one into the
other: on a single matrix, code (ε, η) = paper (cε, c²η). The code draws adapters as nearly square matrices of as many
entries; here every matrix keeps its shape, and r is at most its smaller side. A matrix of one row or one column
counts as a vector, as in the code.
"""

import math
from dataclasses import dataclass

from zoplat import Array, Key, LowRankSampler, Noise, Tile, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class Subspace(LowRankSampler):
    """Z = c U Ψ Vᵀ on matrices, U and V orthonormal and kept for a while; plain Gaussian on vectors.

    Attributes:
        rank: r, columns of U and V where the matrix has as many rows and columns; at least 1.
        interval: T₀, steps that share U and V; at least 1.
        is_scaled: whether c = √(mn)/r, for entries of unit variance as in the authors' code; else c = 1.
    """

    rank: int = number(8, at_least=1)
    interval: int = number(2000, at_least=1)
    is_scaled: bool = True

    def has_factors(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and min(shape) > 1

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        shape, name, epoch = tile.block.shape, tile.block.name, key.epoch(self.interval)
        rank = min(self.rank, *shape)
        u = noise.orthonormal((rank, shape[0]), epoch, name, "U").T
        v = noise.orthonormal((rank, shape[1]), epoch, name, "V").T
        core = noise.normal((rank, rank), key, name, "core")
        core *= math.sqrt(self.variance(shape) * math.prod(shape)) / rank  # c
        return tile.of(u @ core), v  # whole rows times the core, then the tile's: numbers don't depend on the cut

    def variance(self, shape: tuple[int, ...]) -> float:
        if self.is_scaled or not self.has_factors(shape):
            return 1.0
        return min(self.rank, *shape) ** 2 / math.prod(shape)


@hookimpl
def zoplat_samplers() -> dict[str, Subspace]:
    return {"subspace": Subspace()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"subzero": MeZO(sampler=Subspace(), rule=Constant(lr=1e-7))}
