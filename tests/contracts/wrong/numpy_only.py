"""A law that copies and converts as numpy does and torch does not."""

from dataclasses import dataclass

from zoplat import Key, Noise, Sampler, Tile, hookimpl


@dataclass(frozen=True)
class NumpyOnly(Sampler):
    """Standard normal entries."""

    def fill(self, out, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile).astype("float32").copy()


@hookimpl
def zoplat_samplers() -> dict[str, Sampler]:
    return {"numpy-only": NumpyOnly()}
