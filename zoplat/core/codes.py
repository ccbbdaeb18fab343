"""Weights packed in 4 bits, two a byte: how their numbers are paired, and blocks of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block

PACKED = "uint4"
"""The dtype of a block of codes."""
LEVELS = 16
"""Codes are whole numbers from 0 to 15."""


@dataclass(frozen=True, eq=False)
class CodesBlock(Block):
    """A block of codes: its array has half as many columns as the block, two codes in each byte.

    θ is in units of a code. What lies between two codes is kept by the space, in a buffer.
    """

    dtype: str = PACKED
    decays: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        rows, bytes_of_row = self.array.shape
        return (rows, 2 * bytes_of_row)

    @cached_property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.shape)


def paired(codes: Array) -> Array:
    """Codes two a byte: the lower half of each row in the lower four bits, the upper half in the upper four.

    Args:
        codes: uint8 (rows, columns), from 0 to 15.

    Returns:
        uint8 (rows, columns / 2).
    """
    half = codes.shape[1] // 2
    return codes[:, :half] + LEVELS * codes[:, half:]


def unpaired(pairs: Any, out: Array) -> None:
    """The codes in some bytes.

    Args:
        pairs: uint8 (rows, columns / 2).
        out: (rows, columns), of any type of numbers.
    """
    half = pairs.shape[1]
    out[:, :half] = pairs & (LEVELS - 1)
    out[:, half:] = pairs >> 4
