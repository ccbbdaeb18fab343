"""Gaussian perturbations: z ~ N(0, I)."""

from dataclasses import dataclass

from zoplat import Array, Key, Noise, Sampler, Tile, hookimpl


@dataclass(frozen=True)
class Gaussian(Sampler):
    """Independent standard normal entries; E‖⟨G,z⟩z‖² = (d + 2)‖G‖²."""

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile)


@hookimpl
def zoplat_samplers() -> dict[str, Gaussian]:
    return {"gaussian": Gaussian()}
