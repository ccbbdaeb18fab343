"""One draw as fused kernels draw it: a named run of random numbers, two factors, or the values of an array."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Draw
from zoplat.core.noise import Noise, Stream
from zoplat.core.sampler import Held
from zoplat_devices.kernels.tables import TERM, TERMS, address


class Drawn:
    """The terms of one draw on the blocks of a backend; each is found when it is first asked for.

    Args:
        blocks: by place.
        noise: random numbers by address.
        draw: without its part.

    Attributes:
        held: the arrays that terms point to.
        factors: (U, V) by the place of a block, where there are some.
    """

    def __init__(self, blocks: Any, noise: Noise, draw: Draw) -> None:
        self.held: list[Any] = []
        self.factors: dict[int, tuple[Any, Any]] = {}
        self._blocks, self._noise, self._draw = blocks, noise, draw
        self._terms = np.zeros(len(blocks), TERM)
        self._known = np.zeros(len(blocks), bool)
        self._fused = np.zeros(len(blocks), bool)

    def find(self, place: int) -> None:
        """Find the term on one block, unless it is known."""
        if not self._known[place]:
            block = self._blocks[place]
            term = self._term(place, Tile(block, 0, block.shape[0]))
            if term is not None:
                self._terms[place], self._fused[place] = term, True
            self._known[place] = True

    def on(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """On some blocks, the terms without coefficients, and whether the kernels can draw them."""
        for place in places[~self._known[places]]:
            self.find(place)
        return self._terms[places], self._fused[places]

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(int(array.nbytes) for array in self.held)

    def _term(self, place: int, tile: Tile) -> tuple[Any, ...] | None:
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
            self.held += [u, v]
            self.factors[place] = u, v.T
            return (TERMS["low-rank"], u.shape[1], 0, 0, 0.0, tile.shape[1], address(u), address(v), *scale)
        sink = _Sink()
        try:
            sampler.fill(sink, tile, key, _REQUESTS)
        except (TypeError, AttributeError):  # the law computes with its numbers
            return None
        request = sink.request
        if request is None or (request.first, request.shape) != (0, tile.shape):
            return None
        return (TERMS[request.law], 0, *request.stream, 0.0, 0, 0, 0, *scale)


def _scale(draw: Draw, block: Block) -> tuple[int, int] | None:
    """Where the scale of a draw is on a block, and whether its root divides; None where the kernels can't apply it."""
    if not draw.scales:
        return 0, 0
    [(buffer, power), *others] = draw.scales
    array = buffer.arrays.get(block.name)
    plain = array is not None and tuple(array.shape) == block.shape and str(array.dtype).endswith("float32")
    if others or not plain or power not in (1.0, -0.5):
        return None
    return address(array), int(power == -0.5)


class _Requests(Noise):
    """Records what was asked for instead of making it."""

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        return _Request(law, stream, first, shape)


class _Request:
    """Random numbers that were asked for. It computes with nothing, so that a law which computes is noticed."""

    __slots__ = ("first", "law", "shape", "stream")

    def __init__(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> None:
        self.law, self.stream, self.first, self.shape = law, stream, first, shape


class _Sink:
    """Stands for `out`: takes one request for the whole tile and nothing else."""

    request: _Request | None = None

    def __setitem__(self, index: Any, value: Any) -> None:
        if index != slice(None) or not isinstance(value, _Request) or self.request is not None:
            raise TypeError("not a plain draw")
        self.request = value


_REQUESTS: Any = _Requests()


def _contiguous(array: Any) -> Any:
    """The array itself or a copy without gaps, for numpy and torch."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array)
