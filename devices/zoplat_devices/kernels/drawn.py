"""One draw as a term of fused kernels: a stream of random numbers, two factors, or the entries of an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Draw
from zoplat.core.noise import Key, Noise, Stream, stream
from zoplat.core.sampler import Held
from zoplat_devices.kernels.tables import JOB, SUM, TERM, TERMS, Jobs, Sums, address


class Drawn:
    """The terms of one draw on the blocks of a backend, computed on demand and kept.

    Args:
        blocks: of the backend, in order.
        noise: random numbers by address.
        draw: without its part.

    Attributes:
        factor_arrays: copies of factors that terms point to.
        factors: index of a block → (U, V), where the draw has factors.
    """

    def __init__(self, blocks: Sequence[Block], noise: Noise, draw: Draw) -> None:
        self.factor_arrays: list[Any] = []
        self.factors: dict[int, tuple[Any, Any]] = {}
        self._blocks, self._noise, self._draw = blocks, noise, draw
        self._terms = np.zeros(len(blocks), TERM)
        self._known = np.zeros(len(blocks), bool)
        self._fused = np.zeros(len(blocks), bool)

    def compute(self, index: int) -> None:
        """Compute the term on one block, unless it is known."""
        if not self._known[index]:
            block = self._blocks[index]
            term = self._term(index, Tile(block, 0, block.shape[0]))
            if term is not None:
                self._terms[index], self._fused[index] = term, True
            self._known[index] = True

    def on(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The terms on some blocks, without coefficients, and for each whether the kernels can draw it."""
        for index in indices[~self._known[indices]]:
            self.compute(index)
        return self._terms[indices], self._fused[indices]

    @property
    def bytes(self) -> int:
        """Bytes of the factors."""
        return sum(int(array.nbytes) for array in self.factor_arrays)

    def _term(self, index: int, tile: Tile) -> tuple[Any, ...] | None:
        sampler, key = self._draw.sampler, self._draw.key
        scale = _scale(self._draw, tile.block)
        if scale is None:
            return None
        if isinstance(sampler, Held):
            array = sampler.buffer.arrays.get(tile.block.name)
            return None if array is None else (TERMS["values"], 0, 0, 0, 0.0, 0, address(array), 0, *scale)
        factors = sampler.factors(tile, key, self._noise)
        if factors is not None:
            u, v = (_contiguous(array) for array in (factors[0], factors[1].T))
            self.factor_arrays += [u, v]
            self.factors[index] = u, v.T
            return (TERMS["low-rank"], u.shape[1], 0, 0, 0.0, tile.shape[1], address(u), address(v), *scale)
        sink: Any = _Sink()
        try:
            sampler.fill(sink, tile, key, _REQUESTS)
        except (TypeError, AttributeError):  # the law computes with its random numbers
            return None
        request = sink.request
        if request is None or not request.is_from_the_start or request.shape != tile.shape:
            return None
        return (TERMS[request.law], 0, *request.stream, 0.0, 0, 0, 0, *scale)


def plain_factors(draw: Draw, blocks: Sequence[Block]) -> list[tuple[Any, Any]] | None:
    """What U and V of a draw are drawn from on some matrices; None where the law computes with its random numbers."""
    found: list[tuple[Any, Any]] = []
    for block in blocks:
        try:
            factors: Any = draw.sampler.factors(Tile(block, 0, block.shape[0]), draw.key, _REQUESTS)
        except (TypeError, AttributeError):
            return None
        u, v = factors or (None, None)
        if not (isinstance(u, _Request) and isinstance(v, _Request) and u.is_from_the_start and v.is_from_the_start):
            return None
        found.append((u, v))
    return found


def drawn_jobs(asked: Sequence[tuple[Any, Any]]) -> tuple[Jobs, Sums]:
    """Jobs that fill some float32 arrays, each with the random numbers of a request."""
    rows, sums = np.zeros(len(asked), JOB), Sums(len(asked), 1)
    terms = [(TERMS[one.law], 0, *one.stream, 1.0, 0, 0, 0, 0, 0) for one, _ in asked]
    sums.terms[:, 0], sums.counts[:] = np.array(terms, TERM), 1
    rows["target"], rows["stop"] = [address(array) for _, array in asked], [math.prod(one.shape) for one, _ in asked]
    rows["line"], rows["dtype"] = np.arange(len(asked)), SUM
    return Jobs(rows), sums


def _scale(draw: Draw, block: Block) -> tuple[int, int] | None:
    """(address of a draw's scale s on a block, whether s^−½ multiplies); None if the kernels can't apply it."""
    if not draw.scales:
        return 0, 0
    [(buffer, power), *others] = draw.scales
    array = buffer.arrays.get(block.name)
    plain = array is not None and tuple(array.shape) == block.shape and str(array.dtype).endswith("float32")
    if others or not plain or power not in (1.0, -0.5):
        return None
    return address(array), int(power == -0.5)


class _Requests(Noise):
    """Noise that returns the request instead of the random numbers, to learn what a law draws."""

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def _at(self, law: str, shape: tuple[int, ...], address: tuple[Key | Tile | str, ...]) -> Any:
        return _Request(law, shape, address)


class _Request:
    """A request for random numbers. It supports no arithmetic, so a law that computes with its numbers raises."""

    __slots__ = ("address", "is_from_the_start", "law", "shape")

    def __init__(self, law: str, shape: tuple[int, ...], address: tuple[Key | Tile | str, ...]) -> None:
        self.law, self.shape, self.address = law, shape, address
        self.is_from_the_start = True
        for part in address:
            if isinstance(part, Tile) and part.start:
                self.is_from_the_start = False

    @property
    def stream(self) -> Stream:
        return stream(*self.address)


class _Sink:
    """A proxy of `out` that accepts one request for the whole tile and nothing else."""

    request: _Request | None = None

    def __setitem__(self, key: Any, value: Any) -> None:
        if key != slice(None) or not isinstance(value, _Request) or self.request is not None:
            raise TypeError("not one plain draw")
        self.request = value


_REQUESTS: Any = _Requests()


def _contiguous(array: Any) -> Any:
    """A numpy array or torch tensor in contiguous memory; copied if it is not."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array)
