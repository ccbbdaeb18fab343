"""How float32 results become stored weights of 16 bits; wider weights are stored as they are.

Under stochastic rounding a result between two neighbouring numbers of the type becomes the one nearer to zero, or the
other where u < f; f is the share of the gap that lies between the former and the result, u uniform on (0, 1). So the
expected value is the result itself. What is beyond the largest finite number becomes that number; infinities and NaN
stay. Written in operators that numpy arrays and torch tensors share; `kernels.c` computes the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Part, Tile
from zoplat.core.noise import Key, Noise, Stream, stream
from zoplat.space.buffers import Buffers, MakeArray

RoundingName: TypeAlias = Literal["nearest", "stochastic", "master"]

NARROW = ("bfloat16", "float16")
"""The dtypes of 16 bits, to which float32 results are rounded."""

SIZE, SIGN, EXPONENT = 0x7FFFFFFF, -0x80000000, 0x7F800000  # bits of a float32
LARGEST = {"bfloat16": 0x7F7F0000, "float16": 0x477FE000}  # finite number of the type, as bits of a float32


class Rounding:
    """Rounding to nearest, as a conversion of dtype does it.

    Attributes:
        is_stochastic: whether results are rounded with the random numbers of `stream`.
        in_files: whether a part of θ is in mapped files, to be released block by block.
    """

    is_stochastic = False
    in_files = False

    def theta_of(self, block: Block) -> Array:
        """The array that holds θ on a block: the block's own, or its master copy."""
        return block.array

    def begin_pass(self) -> None:
        """Called before every pass that writes θ; advances the stream of stochastic rounding."""

    def stream(self, block: Block) -> Stream:
        """The stream of random numbers for rounding a block in this pass; only where `is_stochastic`."""
        raise NotImplementedError

    def rest_of(self, block: Block) -> Array:
        """The array that holds what lies between codes, of the block's shape; only of blocks of codes."""
        raise NotImplementedError

    def read(self, tile: Tile, out: Array) -> None:
        """Write θ on a tile to an array of its shape."""
        out[:] = tile.of(self.theta_of(tile.block))

    def probed(self, tile: Tile, out: Array) -> None:
        """Write what a perturbation is added to on a tile to an array of its shape: θ, where it is of floats."""
        self.read(tile, out)

    def stored(self, tile: Tile, out: Array) -> None:
        """Write the stored numbers of a tile, which a forward pass at θ sees, to an array of its shape."""
        out[:] = tile.of(tile.block.array)

    def write(self, tile: Tile, values: Array, target: Array) -> None:
        """Write what a forward pass is to see on a tile to an array like the block's own; `values` may change."""
        tile.of(target)[:] = values

    def store(self, tile: Tile, theta: Array) -> None:
        """Round θ on a tile and write it to the block.

        Args:
            tile: of the block.
            theta: float32 in scratch memory; may be overwritten.
        """
        tile.of(tile.block.array)[:] = theta

    def publish(self, block: Block) -> None:
        """Round what `theta_of` holds to the block's own array; called when the former was written directly."""

    def resynchronise(self) -> None:
        """Take what was written into the blocks' own arrays from outside, such as a checkpoint, as θ."""


class StochasticRounding(Rounding):
    """Stochastic rounding: up or down at random, with the exact result as expected value.

    Args:
        blocks: of 16 bits.
        noise: random numbers by address.
        buffers: of the space; a new one counts passes, so that a resumed run continues the stream.
        empty: makes arrays in memory.
        seed: of the random numbers.
    """

    is_stochastic = True

    def __init__(self, blocks: Sequence[Block], noise: Noise, buffers: Buffers, empty: MakeArray, seed: int) -> None:
        self._noise, self._seed = noise, seed
        self._passes = empty((1,), "int64")
        self._passes[:] = 0
        self._known: int | None = 0  # the same number, which is not read back from a device for every block
        buffers.keep(Buffer("writes, counted for rounding", {blocks[0].name: self._passes}))
        self._integer = empty((1,), "int32").dtype

    def begin_pass(self) -> None:
        self._passes += 1
        self._known = None if self._known is None else self._known + 1

    def resynchronise(self) -> None:
        self._known = None

    def stream(self, block: Block) -> Stream:
        return stream(self._key, block.name, "rounding")

    def store(self, tile: Tile, theta: Array) -> None:
        if tile.block.dtype in NARROW:
            u = self._noise.coarse(tile.shape, self._key, tile, "rounding")
            round_stochastically(theta, u, tile.block.dtype, self._integer)
        super().store(tile, theta)

    @property
    def _key(self) -> Key:
        if self._known is None:
            self._known = int(self._passes[0])
        return Key(self._seed, self._known, -1)


class MasterWeights(Rounding):
    """Master weights: θ is a float32 copy, and the blocks' own arrays hold it rounded to nearest.

    Args:
        blocks: of 16 bits.
        buffers: of the space; a new one holds the copies.
        empty: what makes arrays in memory, beside a block.
    """

    def __init__(self, blocks: Sequence[Block], buffers: Buffers, empty: Callable[[Block], MakeArray]) -> None:
        self._blocks, self._empty = blocks, empty
        part = Part(frozenset(block.name for block in blocks))
        self._masters: Mapping[str, Array] = buffers.allocate("master weights", on=part).arrays
        for block in blocks:
            self._masters[block.name][:] = block.array

    def theta_of(self, block: Block) -> Array:
        return self._masters.get(block.name, block.array)

    def store(self, tile: Tile, theta: Array) -> None:
        if tile.block.name in self._masters:
            tile.of(self._masters[tile.block.name])[:] = theta
        super().store(tile, theta)

    def publish(self, block: Block) -> None:
        if block.name in self._masters:
            block.array[:] = self._masters[block.name]

    def resynchronise(self) -> None:
        """Entries of master weights that still round to what the array holds stay; the others take its value."""
        for block in self._blocks:
            for tile in block.tiles():
                master, held = tile.of(self._masters[block.name]), tile.of(block.array)
                make = self._empty(block)
                rounded, wide = make(tile.shape, block.dtype), make(tile.shape, block.wide_dtype)
                rounded[:], wide[:] = master, held
                differs = rounded != held
                master[differs] = wide[differs]


def rounding_named(
    name: RoundingName,
    blocks: Sequence[Block],
    noise: Noise,
    buffers: Buffers,
    empty: Callable[[Block], MakeArray],
    seed: int,
) -> Rounding:
    """The rounding of a name for some blocks; to nearest where none of them has 16 bits.

    Args:
        name: of the rounding.
        blocks: of the space.
        noise: random numbers by address.
        buffers: of the space.
        empty: what makes arrays in memory, beside a block.
        seed: of the random numbers.
    """
    narrow = [block for block in blocks if block.dtype in NARROW]
    if not narrow or name == "nearest":
        return Rounding()
    if name == "stochastic":
        return StochasticRounding(narrow, noise, buffers, empty(narrow[0]), seed)
    return MasterWeights(narrow, buffers, empty)


def round_stochastically(theta: Array, u: Array, dtype: str, integer: Any) -> None:
    """Round every entry of `theta` to one of the two neighbouring numbers of a dtype.

    Args:
        theta: contiguous float32, changed in place; its entries are then numbers of the dtype.
        u: uniform random numbers of the same shape, odd multiples of 2⁻¹⁷ between 0 and 1.
        dtype: one of `NARROW`.
        integer: the runtime's own name for int32.
    """
    (_to_bfloat16 if dtype == "bfloat16" else _to_float16)(theta, u, integer)


def _to_bfloat16(theta: Array, u: Array, integer: Any) -> None:
    """The upper half of a float32's bits is the neighbour nearer to zero, the lower half is the share f."""
    bits = theta.view(integer)
    rest = bits & 0xFFFF
    away = (rest * 2.0**-16 > u) & ((bits & SIZE) < LARGEST["bfloat16"])
    bits -= rest
    bits += away * 0x10000


def _to_float16(theta: Array, u: Array, integer: Any) -> None:
    """The size in units of the gap between neighbours, its fraction the share f; below 2⁻¹⁴ all gaps are 2⁻²⁴."""
    bits = theta.view(integer)
    size, sign = bits & SIZE, bits & SIGN
    inside = size < LARGEST["float16"]
    beyond = (size < EXPONENT) ^ inside
    size *= inside
    gap = (size & EXPONENT).clip(min=(127 - 14) << 23) - (10 << 23)
    steps = size.view(theta.dtype) * ((254 << 23) - gap).view(theta.dtype)
    rest = steps % 1
    steps -= rest
    steps += rest > u
    steps *= gap.view(theta.dtype)
    rounded = steps.view(integer) | sign
    bits[inside] = rounded[inside]
    bits[beyond] = sign[beyond] | LARGEST["float16"]
