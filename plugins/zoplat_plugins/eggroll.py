"""EGGROLL: evolution strategies whose members differ by low-rank matrices.

For a weight matrix W of shape (m, n), a rank r and members in pairs ±:

    A ~ N(0, 1), shape (m, r)     B ~ N(0, 1), shape (n, r)     both fresh for every pair
    E = A Bᵀ/√r                   entries of unit variance; vectors keep a plain Gaussian
    sᵢ = (Lᵢ − L̄)/√(var L + 10⁻⁵)                 Lᵢ = L(W ± σE), the variance over all N members
    W ← W − η · (1/N) Σ ±sᵢ Eᵢ

The members are cheap to make, and their sum has a rank of up to Nr/2. EGGROLL is `es` in pairs with another law for
z, so this file holds only that law.

Cost per step: N forward passes, two for each direction. Memory: that of inference, plus A and B of one pass.

Source: Sarkar et al., "Evolution Strategies at the Hyperscale", 2025, arXiv:2511.16652; the form is that of the code,
in a fork and in the authors' own tests.
Differs: that code's step is η√N · (1/N) Σ ±sᵢσEᵢ, so its step size is our η/(σ√N). It maximises a fitness; here it is
the loss, with the other sign. Groups within which fitness is centred are left out. σ, N and η for language models
were not at hand; those here are ours.
"""

from dataclasses import dataclass

from zoplat import Array, Key, LowRankSampler, Noise, Tile, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.es import ES


@dataclass(frozen=True)
class OuterProducts(LowRankSampler):
    """E = A Bᵀ/√r on matrices, A and B fresh for every draw; plain Gaussian on vectors.

    Attributes:
        rank: r, columns of A and B; at least 1.
    """

    rank: int = number(1, at_least=1)

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        rows, columns = tile.shape
        a = noise.normal((rows, self.rank), key, tile, "A")
        a *= self.rank**-0.5
        return a, noise.normal((columns, self.rank), key, tile.block.name, "B")


@hookimpl
def zoplat_samplers() -> dict[str, OuterProducts]:
    return {"outer-products": OuterProducts()}


@hookimpl
def zoplat_estimators() -> dict[str, ES]:
    rule = Constant(lr=5e-4)
    return {"eggroll": ES(queries=16, is_antithetic=True, floor=1e-5, sampler=OuterProducts(), rule=rule)}
