"""Perturbations on the sphere of radius √d: a Gaussian, divided by its length.

    z = √d · n/‖n‖,  n ~ N(0, I)

The length is a sum over all of n, so each draw costs one more pass of random numbers; no weight is read or written
for it.

Source: the law of the theory in Malladi et al., arXiv:2305.17333, Section 4.
"""

import math
from dataclasses import dataclass

from zoplat import Array, Extent, Key, Noise, Sampler, Tile, hookimpl


@dataclass(frozen=True)
class Sphere(Sampler):
    """Uniform on the sphere of radius √d; E‖⟨G,z⟩z‖² = d‖G‖²."""

    def scale(self, space: Extent, key: Key) -> float:
        return math.sqrt(space.size) / space.length(self, key)

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile)


@hookimpl
def zoplat_samplers() -> dict[str, Sphere]:
    return {"sphere": Sphere()}
