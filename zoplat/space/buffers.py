"""Buffers: state of methods and rules, allocated in one place so that the memory ledger has every byte of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Part
from zoplat.core.errors import ZoplatError

MakeArray: TypeAlias = "Callable[[tuple[int, ...], str], Array]"
"""(shape, dtype) → a new array of the device."""


class Buffers:
    """The buffers of a space, in the order in which they were allocated.

    Args:
        blocks: of the space.
        empty: what makes arrays in memory, beside a block.
        mapped: what makes arrays in mapped files, for a block; None where its device can't.
        release: is called with a mapped array that is not needed for a while.
        in_files: whether all buffers are mapped from files.

    Attributes:
        all: the buffers, in order.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        empty: Callable[[Block], MakeArray],
        mapped: Callable[[Block], MakeArray | None],
        release: Callable[[Array], None],
        in_files: bool = False,
    ) -> None:
        self.all: list[Buffer] = []
        self._blocks, self._in_files = blocks, in_files
        self._empty, self._mapped, self._release = empty, mapped, release

    def allocate(
        self,
        owner: str,
        fill: float = 0.0,
        on: Part | None = None,
        columns: int | None = None,
        rows: int | None = None,
        dtype: str | None = None,
        mapped: bool = False,
    ) -> Buffer:
        """One array per block; the arguments are those of `ParameterSpace.buffer`."""
        mapped = (mapped or self._in_files) and rows is None
        arrays = {}
        for block in self._blocks:
            if on is None or block in on:
                make = self._mapped(block) if mapped else self._empty(block)
                if make is None:
                    raise ZoplatError(f"'{owner}' is to be mapped from a file, which this device can't do.")
                shape = _shape(block, rows, columns) if len(block.shape) == 2 else block.shape
                arrays[block.name] = make(shape, dtype or block.wide_dtype)
                arrays[block.name][:] = fill
                if mapped:
                    self._release(arrays[block.name])
        return self.keep(Buffer(owner, arrays, mapped))

    @property
    def can_map(self) -> bool:
        """Whether the device can make arrays outside of the memory of the weights."""
        return all(self._mapped(block) is not None for block in self._blocks)

    def keep(self, buffer: Buffer) -> Buffer:
        """Enter a buffer in the ledger."""
        self.all.append(buffer)
        return buffer

    def release(self, block: Block) -> None:
        """Evict a block's rows of all buffers that are mapped from files."""
        for buffer in self.all:
            if buffer.is_mapped and block.name in buffer.arrays:
                self._release(buffer.arrays[block.name])

    def broadcast_row(self, owner: str, rows: Mapping[str, Sequence[float]]) -> Buffer:
        """A buffer of one row per matrix, broadcast over all rows of the matrix; temporary, so not in the ledger."""
        arrays = {}
        beside = {block.name: self._empty(block) for block in self._blocks if block.name in rows}
        for name, row in rows.items():
            arrays[name] = beside[name]((1, len(row)), "float32")
            write(arrays[name], [row])
        return Buffer(owner, arrays)


def write(array: Array, rows: Sequence[Sequence[float]]) -> None:
    """Write numbers of the host to the first rows of an array; those of torch are no lists, and are sent at once."""
    array[: len(rows)] = array.new_tensor(rows) if hasattr(array, "new_tensor") else rows


def _shape(block: Block, rows: int | None, columns: int | None) -> tuple[int, int]:
    """The shape of a matrix's array: that of the matrix, where nothing else is asked for."""
    m, n = block.shape
    return min(rows or m, m), columns or n
