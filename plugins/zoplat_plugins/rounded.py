"""Rounded Gaussian perturbations: whole numbers, for weights that are packed codes.

    z = ⌊σg + u⌋,  g ~ N(0, 1), u uniform on [0, 1)        rounded at random, so that E[z | g] = σg

Of a small σ most entries are 0 and the others are ±1.

Source: Zhou et al., "QuZO: Quantized Zeroth-Order Fine-Tuning for Large Language Models", arXiv:2502.12346; Xu et al.,
"Quantized Evolution Strategies", arXiv:2602.03120, whose σ for weights in 4 bits is 0.01.
Differs: QuZO draws a second rounding of g for the update; here z itself is the direction of the update, as in all
methods here. QES leaves out entries that would be pushed beyond 0 or 15; here they stay at the border.
"""

import math
from dataclasses import dataclass

from zoplat import Array, Key, Noise, Sampler, Tile, hookimpl, number

TERMS = 16
"""Of the series for the variance, which is used above σ = 0.1, where the first few suffice."""


@dataclass(frozen=True)
class Rounded(Sampler):
    """Independent Gaussian entries, rounded at random to whole numbers; their variance is about 0.8σ for a small σ.

    Attributes:
        sigma: standard deviation σ before rounding, in codes.
    """

    sigma: float = number(0.01, above=0)

    @property
    def is_whole(self) -> bool:
        return True

    @property
    def density(self) -> float:
        """Share of the entries that are not 0."""
        s = self.sigma
        return 1 - math.erf(1 / (s * 2**0.5)) + s * (2 / math.pi) ** 0.5 * (1 - math.exp(-1 / (2 * s * s)))

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        moved = self.sigma * noise.normal(tile.shape, key, tile) + noise.uniform(tile.shape, key, tile, "rounding")
        out[:] = moved - moved % 1

    def variance(self, shape: tuple[int, ...]) -> float:
        """σ² + E[f(1 − f)] for the fraction f of σg, a series in cosines of 2πnσg."""
        s = self.sigma
        if s <= 0.1:
            return self.density  # beyond ±1 is beyond ten σ
        cosines = sum(math.exp(-2 * (math.pi * n * s) ** 2) / n**2 for n in range(1, TERMS))
        return s * s + 1 / 6 - cosines / math.pi**2


@hookimpl
def zoplat_samplers() -> dict[str, Rounded]:
    return {"rounded": Rounded()}
