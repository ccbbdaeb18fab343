"""TeZO: low-rank directions that share both factors for the whole run.

For a weight matrix W of shape (m, n) and a rank r far below both:

    U ~ N(0, 1), shape (m, r)     once for the run
    V ~ N(0, 1), shape (n, r)     once for the run
    τ ~ N(0, 1), shape (r,)       a new one every step
    Z = U diag(τ) Vᵀ              vectors keep a plain Gaussian
    g = [ L(θ + εZ) − L(θ − εZ) ] / 2ε
    W ← W − η g Z

The directions of a run, one behind the other, are a tensor of rank r. So the run searches r dimensions of each matrix.
TeZO is MeZO with another law for z, so this file holds only that law. U and V are not state: they have names.

Cost per step: 2 forward passes. Memory: that of inference, plus U and V of one pass.

Source: Sun et al., "TeZO: Empowering the Low-Rankness on the Temporal Dimension in the Zeroth-Order Optimization for
Fine-tuning LLMs", 2025, arXiv:2501.19057.
Differs: the paper has a rank for each layer; here all have the same. Its variants TeZO-m and TeZO-Adam keep moments of
gτ; here any step rule goes with the law, and keeps its own.
"""

from dataclasses import dataclass

from zoplat import Array, Key, LowRankSampler, Noise, Tile, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class Temporal(LowRankSampler):
    """Z = U diag(τ) Vᵀ on matrices, with U and V of the run and τ of the step; plain Gaussian on vectors.

    Attributes:
        rank: r, columns of U and V; at least 1.
    """

    rank: int = number(24, at_least=1)

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        u = noise.normal((tile.shape[0], self.rank), key.epoch(0), tile, "U")
        return u * noise.normal((self.rank,), key, tile.block.name, "tau"), self.basis(tile, key, noise)

    def basis(self, tile: Tile, key: Key, noise: Noise) -> Array:
        """V of a matrix, (columns, r)."""
        return noise.normal((tile.shape[1], self.rank), key.epoch(0), tile.block.name, "V")

    def variance(self, shape: tuple[int, ...]) -> float:
        return self.rank if len(shape) == 2 else 1


@hookimpl
def zoplat_samplers() -> dict[str, Temporal]:
    return {"temporal": Temporal()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"tezo": MeZO(sampler=Temporal(), rule=Constant(lr=1e-7))}
