"""Uniform perturbations with unit variance: entries on [−√3, √3)."""

from dataclasses import dataclass

from zoplat import Array, Key, Noise, Sampler, Tile, hookimpl


@dataclass(frozen=True)
class Uniform(Sampler):
    """Independent uniform entries; bounded, variance 1."""

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = (2 * noise.uniform(tile.shape, key, tile) - 1) * 3**0.5


@hookimpl
def zoplat_samplers() -> dict[str, Uniform]:
    return {"uniform": Uniform()}
