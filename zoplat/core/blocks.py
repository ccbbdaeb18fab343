"""Blocks (weight arrays by name), parts (sets of blocks), tiles (rows of a block), buffers (state for each block)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from zoplat.core.arrays import Array

TILE = 1 << 18
"""About how many entries a tile has: whole rows, at least one. Small enough for the cache of one core."""


@dataclass(frozen=True, eq=False)
class Block:
    """A named weight array.

    Attributes:
        name: unique, stable; part of every noise address.
        array: the device's own array, edited in place; (n,) or (rows, columns), contiguous.
        dtype: "float32", "bfloat16", "float16" or "float64".
        layer: index of the layer it belongs to, or None.
        decays: whether weight decay applies; it does to matrices and not to vectors, whatever their names.
    """

    name: str
    array: Array
    dtype: str = "float32"
    layer: int | None = None
    decays: bool = True

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(n,) or (rows, columns)."""
        return tuple(self.array.shape)

    @cached_property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def wide_dtype(self) -> str:
        """Type in which updates are computed: float64 for float64 weights, float32 for all others."""
        return "float64" if self.dtype == "float64" else "float32"

    def tiles(self, entries: int = TILE) -> Iterator[Tile]:
        """The block split into tiles of whole rows, about `entries` entries each."""
        return Tile(self, 0, self.shape[0]).tiles(entries)


@dataclass(frozen=True)
class Part:
    """Some blocks of a space, by name: `block in part`, `part & other`, `part - other`.

    Attributes:
        names: of its blocks.
    """

    names: frozenset[str]

    def __contains__(self, block: Block) -> bool:
        return block.name in self.names

    def __and__(self, other: Part) -> Part:
        return Part(self.names & other.names)

    def __sub__(self, other: Part) -> Part:
        return Part(self.names - other.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows `start` to `stop` of a block. How a block is split into tiles changes no result."""

    block: Block
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of these rows."""
        return (self.stop - self.start, *self.block.shape[1:])

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether the block has rows and columns."""
        return len(self.block.shape) == 2

    def tiles(self, entries: int = TILE) -> Iterator[Tile]:
        """The tile split into smaller ones in the same way."""
        stride = max(1, entries // (self.block.size // self.block.shape[0]))
        for start in range(self.start, self.stop, stride):
            yield Tile(self.block, start, min(self.stop, start + stride))

    def of(self, array: Array) -> Array:
        """The same rows of an array laid out like the block; an array of one row, which is broadcast, itself."""
        return array if array.shape[0] == 1 else array[self.start : self.stop]

    def rows_of(self, buffers: Sequence[Buffer]) -> list[Array | None]:
        """Each buffer's rows of the tile; None where it does not cover the block."""
        name = self.block.name
        return [self.of(buffer.arrays[name]) if name in buffer.arrays else None for buffer in buffers]


@dataclass(frozen=True, eq=False)
class Buffer:
    """An array for each block, such as a momentum; entered in the memory ledger under its owner.

    Attributes:
        owner: method and name, such as "adam/m".
        arrays: by name of the block, with as many rows as the block, or with rows of their own; see
            `ParameterSpace.buffer`.
        is_mapped: whether the arrays are kept outside of the memory of the weights: mapped from files, which the
            operating system reads and evicts, or in the memory of the host beside an accelerator.
    """

    owner: str
    arrays: dict[str, Array]
    is_mapped: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(int(array.nbytes) for array in self.arrays.values())
