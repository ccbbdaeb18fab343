"""Weights in host memory: the space and the noise at memory speed, for whatever runtime reads those weights."""

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from zoplat.direction import Direction, Key
from zoplat.sampler import Noise, Sampler, Stream
from zoplat.space import Block, ParameterSpace, Restore, Tile
from zoplat_devices.native import DTYPES, KINDS, Job, Term

JOB = 1 << 20  # entries a thread takes at a time: long enough to amortise a call, short enough to share evenly


class HostNoise(Noise):
    """The numbers of `ReferenceNoise`, made by the kernels, in arrays that `empty` makes."""

    def __init__(self, library: ctypes.CDLL, empty: Callable[[tuple[int, ...], str], Any]) -> None:
        self.library = library
        self.empty = empty

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        """Numbers `first`, `first` + 1, … of a stream, float32 of `shape`."""
        out = self.empty(shape, "float32")
        self.library.zoplat_numbers(address(out), KINDS[law], *stream, first, math.prod(shape))
        return out


class HostSpace(ParameterSpace):
    """A parameter space whose moves are drawn, scaled and added in registers by all cores.

    A law that only names numbers (`out[:] = noise.normal(...)`) or factors is fused; any other is filled tile
    by tile and added by the same kernel. The arithmetic is that of `ParameterSpace`, bit for bit.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        library: ctypes.CDLL,
        empty: Callable[[tuple[int, ...], str], Any],
        restore: Restore,
    ) -> None:
        self._library = library
        self._threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="zoplat")
        super().__init__(blocks, HostNoise(library, empty), empty, restore)

    def form(self, block: Block, direction: Direction, target: Any) -> None:
        """target ← θ + direction on one block, θ untouched; `target` has the block's shape and dtype."""
        work = _Work(self)
        work.book(block, 1.0, direction, target)
        work.run()

    def _move(self, keep: float, decayed: Direction, plain: Direction) -> None:
        work = _Work(self)
        for block in self.blocks:
            if block.decays:
                work.book(block, keep, decayed, block.array)
            else:
                work.book(block, 1.0, plain, block.array)
        work.run()


class _Work:
    """The jobs of one pass, and what they point to."""

    def __init__(self, space: HostSpace) -> None:
        self.space = space
        self.jobs: list[Job] = []
        self.held: list[Any] = []

    def book(self, block: Block, keep: float, direction: Direction, target: Any) -> None:
        whole = Tile(block, 0, block.shape[0])
        terms = [self.term(draw.sampler, draw.key, c, whole) for draw, c in direction]
        if None in terms:
            self.tile_by_tile(block, keep, direction, target)
        elif terms or keep != 1.0 or target is not block.array:
            self.add(block, keep, terms, target, 0, block.size)

    def term(self, sampler: Sampler, key: Key, c: float, tile: Tile) -> Term | None:
        """The term as the kernels draw it; None for a law that they can't."""
        factors = sampler.factors(tile, key, self.space.noise)
        if factors is not None:
            u, v = factors
            v = v.T.contiguous() if hasattr(v, "contiguous") else v.T.copy()
            self.held += [u, v]
            return Term(KINDS["low-rank"], u.shape[1], 0, 0, c, tile.shape[1], address(u), address(v))
        sink = _Sink()
        try:
            sampler.fill(sink, tile, key, _NOTES)
        except (TypeError, AttributeError):  # the law computes with its numbers
            return None
        if sink.note is None or (sink.note.first, sink.note.shape) != (0, tile.shape):
            return None
        return Term(KINDS[sink.note.law], 0, *sink.note.stream, c, 0, None, None)

    def tile_by_tile(self, block: Block, keep: float, direction: Direction, target: Any) -> None:
        for tile in block.tiles():
            entries = self.space.entries(direction, tile)
            start = tile.start * (block.size // block.shape[0])
            values = Term(KINDS["values"], 0, 0, 0, 1.0, 0, address(entries) - 4 * start, None)
            self.add(block, keep, [values], target, start, start + tile.size)
            self.run()

    def add(self, block: Block, keep: float, terms: list[Term], target: Any, start: int, stop: int) -> None:
        array = (Term * max(1, len(terms)))(*terms)
        self.held.append(array)
        source, into, pointer = address(block.array), address(target), ctypes.addressof(array)
        for first in range(start, stop, JOB):
            last = min(stop, first + JOB)
            self.jobs.append(
                Job(source, into, first, last, pointer, len(terms), DTYPES[block.dtype], keep, 0)
            )

    def run(self) -> None:
        if self.jobs:
            jobs = (Job * len(self.jobs))(*self.jobs)
            taken = ctypes.c_int32(0)
            arguments = (ctypes.addressof(jobs), len(self.jobs), ctypes.addressof(taken))
            threads = min(self.space._threads, len(self.jobs))
            others = [
                self.space._pool.submit(self.space._library.zoplat_run, *arguments) for _ in range(threads - 1)
            ]
            self.space._library.zoplat_run(*arguments)
            for other in others:
                other.result()
        self.jobs, self.held = [], []


class _Notes(Noise):
    """Writes down what was asked for instead of making it."""

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        return _Note(law, stream, first, shape)


@dataclass(frozen=True, eq=False)
class _Note:
    """What was asked for. Computes with nothing, so that a law which computes is noticed."""

    law: str
    stream: Stream
    first: int
    shape: tuple[int, ...]


class _Sink:
    """Stands for `out`: takes one note for the whole tile and nothing else."""

    note: _Note | None = None

    def __setitem__(self, index: Any, value: Any) -> None:
        if index != slice(None) or not isinstance(value, _Note) or self.note is not None:
            raise TypeError("not a plain draw")
        self.note = value


_NOTES = _Notes()


def address(array: Any) -> int:
    """Where a contiguous array of numpy or torch begins."""
    pointer = array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data
    return int(pointer)
