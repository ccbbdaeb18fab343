"""LOZO: zeroth-order steps along low-rank directions.

For a weight matrix W of shape (m, n) and a rank r far below both:

    V ~ N(0, 1), shape (n, r)     a new one every ν steps, kept in between
    U ~ N(0, 1), shape (m, r)     a new one every step
    Z = U Vᵀ                      vectors keep a plain Gaussian
    g = [ L(θ + εZ) − L(θ − εZ) ] / 2ε
    W ← W − η g U Vᵀ

LOZO is MeZO with another law for z, so this file holds only that law. V is not state: it is named by the last step
divisible by ν and drawn again when needed.

Cost per step: 2 forward passes. Memory: that of inference, plus U and V of one pass.

Source: Chen et al., "Enhancing Zeroth-Order Fine-Tuning for Language Models with Low-Rank Structures", ICLR 2025,
arXiv:2410.07698, Algorithm 1.
Differs: the paper divides Z by r in the step; here, as in the authors' code, η carries that factor (η = α/r), so that
published settings transfer. In that code the step that renews V applies another direction than it probed; here it
does not.
"""

from dataclasses import dataclass

from zoplat import Array, Key, LowRankSampler, Noise, Tile, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class LowRank(LowRankSampler):
    """Z = U Vᵀ on matrices, with V renewed every `interval` steps; plain Gaussian on vectors.

    Attributes:
        rank: r, columns of U and V; at least 1.
        interval: ν, steps that share one V; at least 1.
    """

    rank: int = number(2, at_least=1)
    interval: int = number(50, at_least=1)

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        return noise.normal((tile.shape[0], self.rank), key, tile, "U"), self.basis(tile, key, noise)

    def basis(self, tile: Tile, key: Key, noise: Noise) -> Array:
        """V of a matrix, (columns, r), in the interval that the key's step lies in."""
        return noise.normal((tile.shape[1], self.rank), key.epoch(self.interval), tile.block.name, "V")

    def variance(self, shape: tuple[int, ...]) -> float:
        return self.rank if len(shape) == 2 else 1


@hookimpl
def zoplat_samplers() -> dict[str, LowRank]:
    return {"low-rank": LowRank()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"lozo": MeZO(sampler=LowRank(), rule=Constant(lr=1e-7))}
