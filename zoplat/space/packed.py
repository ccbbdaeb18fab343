"""Codes that train: whole numbers in 4 bits, and for each the remainder of θ in 8 bits, in an array of its own.

    θ = q + r/256        q from 0 to 15, r from −128 to 127

An update is added to θ and rounded at random to a multiple of 1/256, with the sum as expected value. So q moves when
enough has come together, and nothing is lost on the way. Forward passes see q alone, or q + z for a z of whole numbers,
cut off at 0 and 15.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.codes import LEVELS, PACKED, paired, unpaired
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Noise
from zoplat.core.sampler import Sampler
from zoplat.space.buffers import Buffers, MakeArray
from zoplat.space.rounding import RoundingName, StochasticRounding

PARTS = 256
"""Parts of a code in which its residual is counted."""
RESIDUAL = "codes/residual"
"""Owner of the buffer of r."""


class CodesRounding(StochasticRounding):
    """θ as codes and residuals.

    Args:
        blocks: all of them of codes.
        noise: random numbers by address.
        buffers: of the space; a new one holds r, in mapped files or the memory of the host where the device has such.
        empty: makes arrays in memory.
        seed: of the random numbers.
    """

    def __init__(self, blocks: Sequence[Block], noise: Noise, buffers: Buffers, empty: MakeArray, seed: int) -> None:
        super().__init__(blocks, noise, buffers, empty, seed)
        self._empty = empty
        self.in_files = buffers.can_map
        self._rest = buffers.allocate(RESIDUAL, dtype="int8", mapped=buffers.can_map).arrays

    def rest_of(self, block: Block) -> Array:
        return self._rest[block.name]

    def read(self, tile: Tile, out: Array) -> None:
        rest = self._empty(tile.shape, "float32")
        rest[:] = tile.of(self._rest[tile.block.name])
        rest *= 1 / PARTS
        self.stored(tile, out)
        out += rest

    def stored(self, tile: Tile, out: Array) -> None:
        unpaired(tile.of(tile.block.array), out)

    def probed(self, tile: Tile, out: Array) -> None:
        self.stored(tile, out)

    def write(self, tile: Tile, values: Array, target: Array) -> None:
        tile.of(target)[:] = paired(values.clip(0, LEVELS - 1))

    def store(self, tile: Tile, theta: Array) -> None:
        theta *= PARTS
        theta += self._noise.coarse(tile.shape, self._key, tile, "rounding")
        theta -= theta % 1
        parts = theta.clip(-PARTS // 2, PARTS * (LEVELS - 1) + PARTS // 2 - 1)
        codes = theta
        codes[:] = parts
        codes += PARTS // 2
        codes *= 1 / PARTS
        codes -= codes % 1
        parts -= PARTS * codes
        tile.of(self._rest[tile.block.name])[:] = parts
        tile.of(tile.block.array)[:] = paired(codes)


def has_codes(blocks: Sequence[Block]) -> bool:
    """Whether blocks are of codes.

    Raises:
        ZoplatError: some are and others are not.
    """
    packed = [block for block in blocks if block.dtype == PACKED]
    if packed and len(packed) < len(blocks):
        other = next(block.name for block in blocks if block.dtype != PACKED)
        raise ZoplatError(f"{packed[0].name} is of codes, and {other} is not; they can't be trained together.")
    return bool(packed)


def check_codes(restore: str, rounding: RoundingName) -> None:
    """Raise ZoplatError where codes can't be restored or rounded as the settings say."""
    if restore != "exact":
        raise ZoplatError(
            "Probes of codes are cut off at 0 and 15 and can't be subtracted again. Leave -o device.restore out."
        )
    if rounding != "stochastic":
        raise ZoplatError(
            f"rounding={rounding} is for floats: what rounding leaves of codes is kept beside them. "
            "Leave -o device.rounding out."
        )


def check_law(law: Sampler) -> None:
    """Raise ZoplatError where a law draws other than whole numbers, by which alone codes can be probed."""
    if not law.is_whole:
        raise ZoplatError(
            f"{type(law).__name__} draws floats, and the weights of --tune codes are packed whole numbers, which only "
            "a sampler made for them may perturb. Use --sampler rounded, or --tune scales."
        )


def check_probe(direction: Direction) -> None:
    """Raise ZoplatError where codes would be perturbed by other than whole numbers."""
    for draw, c in direction:
        check_law(draw.sampler)
        if draw.scales or c != int(c):
            raise ZoplatError(
                f"Codes are perturbed by whole numbers, and {c:g} times a draw of them are none. Use --eps 1, or "
                "another whole number, and a method that does not scale its directions."
            )
