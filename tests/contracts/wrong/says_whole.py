"""Says that its entries are whole numbers, and they are not."""

from dataclasses import dataclass

from zoplat import Array, Key, Noise, Sampler, Tile, hookimpl


@dataclass(frozen=True)
class SaysWhole(Sampler):
    """Gaussian."""

    @property
    def is_whole(self) -> bool:
        return True

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile)


@hookimpl
def zoplat_samplers() -> dict[str, SaysWhole]:
    return {"says-whole": SaysWhole()}
