"""Rademacher perturbations: every entry is +1 or −1."""

from dataclasses import dataclass

from zoplat import Array, Key, Noise, Sampler, Tile, hookimpl


@dataclass(frozen=True)
class Rademacher(Sampler):
    """Independent fair signs; one random bit an entry. E‖⟨G,z⟩z‖² = d‖G‖², the least of the laws here."""

    @property
    def is_whole(self) -> bool:
        return True

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.sign(tile.shape, key, tile)


@hookimpl
def zoplat_samplers() -> dict[str, Rademacher]:
    return {"rademacher": Rademacher()}
