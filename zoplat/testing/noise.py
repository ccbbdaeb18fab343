"""The reference noise for toys, which notes down what it was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from zoplat.core.blocks import Tile
from zoplat.core.noise import Key, Stream
from zoplat_devices.kernels.noise import ReferenceNoise

Vector: TypeAlias = npt.NDArray[np.float64]
Address: TypeAlias = tuple[Key | str, ...]
"""Where random numbers come from: that of `Noise`, with the name of its block in place of a tile."""

FEW, MANY = 64, 512
"""Numbers of a stream that are cached; no block of the toys here has more than the former."""


class ToyNoise(ReferenceNoise):
    """The reference noise, with the first numbers of each stream cached: toys need the same few again and again.

    Args:
        dtype: of the arrays; in float64 the same numbers, and whatever a law computes from them in float64 too.
        of_library: makes of them the arrays that laws get.
    """

    def __init__(self, dtype: str = "float32", of_library: Callable[[Any], Any] = lambda array: array) -> None:
        self.dtype, self._of_library = dtype, of_library
        self._used: set[Address] = set()

    @contextmanager
    def recording(self) -> Iterator[set[Address]]:
        """The addresses that are used within the block."""
        before, self._used = self._used, set()
        yield self._used
        self._used = before

    def normal(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Any:
        self._record(address)
        return super().normal(shape, *address)

    def sign(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Any:
        self._record(address)
        return super().sign(shape, *address)

    def uniform(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Any:
        self._record(address)
        return super().uniform(shape, *address)

    def coarse(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Any:
        self._record(address)
        return super().coarse(shape, *address)

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        """The numbers of the reference, in this dtype."""
        return self._of_library(self._numbers(law, stream, first, shape))

    def _numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        end = first + math.prod(shape)
        for cached, most in ((_few, FEW), (_many, MANY)):
            if end <= most:
                return cached(law, stream)[first:end].reshape(shape).astype(self.dtype)
        return super().numbers(law, stream, first, shape).astype(self.dtype)

    def orthonormal(self, shape: tuple[int, int], key: Key, *place: str) -> Any:
        self._record((key, *place))
        return super().orthonormal(shape, key, *place)

    def _record(self, address: tuple[Key | Tile | str, ...]) -> None:
        self._used.add(tuple(part.block.name if isinstance(part, Tile) else part for part in address))


@lru_cache(maxsize=1 << 15)
def _few(law: str, stream: Stream) -> Vector:
    found: Vector = ReferenceNoise().numbers(law, stream, 0, (FEW,)).copy()
    return found


@lru_cache(maxsize=1 << 10)
def _many(law: str, stream: Stream) -> Vector:
    found: Vector = ReferenceNoise().numbers(law, stream, 0, (MANY,)).copy()
    return found
