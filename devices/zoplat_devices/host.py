"""Weights in host memory: the space and the noise at memory speed, for whatever runtime reads those weights."""

import ctypes
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from zoplat.blocks import Block, Part, Tile
from zoplat.direction import Direction, Draw
from zoplat.rounding import Rounding
from zoplat.sampler import Held, Noise, Stream, stream
from zoplat.space import ParameterSpace, Points, Restore
from zoplat_devices.memory import mapped
from zoplat_devices.native import DTYPES, FROM_FLOAT32, JOB, KINDS, SUM, TERM, library
from zoplat_devices.noise import ReferenceNoise

ENTRIES = 1 << 20  # of one job: long enough to amortise a call, short enough to share evenly between threads
PIECE = 1 << 16  # of one job where blocks are formed beside the weights, a few at a time
REMEMBERED = 2  # draws whose factors are kept: a probe comes back when it is turned round, restored and applied
NOTED = 64  # draws whose terms are kept where these are a few kilobytes


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
        mapped: Callable[[tuple[int, ...], str], Any] | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        self._library = library
        self._threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="zoplat")
        self._drawn: OrderedDict[Draw, _Drawn] = OrderedDict()
        self._plans: dict[bytes, _Plan] = {}
        self._cuts: dict[tuple[int, int, int], _Cut] = {}
        super().__init__(blocks, HostNoise(library, empty), empty, restore, mapped, rounding, seed)
        self._place = {block.name: place for place, block in enumerate(self.blocks)}
        self._everywhere = np.arange(len(self.blocks))
        self._decaying = np.array([block.decays for block in self.blocks], bool)

    @property
    def scratch_bytes(self) -> int:
        return super().scratch_bytes + sum(drawn.bytes for drawn in self._drawn.values())

    def form(self, block: Block, direction: Direction, target: Any) -> None:
        self._pass(np.array([self._place[block.name]]), 1.0, direction, target)

    def points(self, directions: Sequence[Direction]) -> Points:
        return HostPoints(self, directions)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Any:
        terms = [*direction]
        line = self._line(terms, tile.block)
        if line is None:
            return super().entries(terms, tile, purpose)
        out = self._space_for(tile, purpose)
        self._to_scratch(tile, out, line, out, SUM, 1.0)
        return out

    def _moved(self, tile: Tile, keep: float, decayed: Direction, plain: Direction) -> Any:
        theta, (direction, factor) = self._theta_of(tile.block), (decayed, keep) if tile.block.decays else (plain, 1.0)
        line = self._line(direction, tile.block)
        if line is None or not str(theta.dtype).endswith("float32"):
            return super()._moved(tile, keep, decayed, plain)
        out = self._space_for(tile, "theta")
        self._to_scratch(tile, out, line, tile.of(theta), DTYPES["float32"], factor)
        return out

    def _line(self, direction: Iterable[tuple[Draw, float]], block: Block) -> np.ndarray | None:
        """The terms of a direction on one block; None where the kernels can't draw one of them."""
        made = _Lines(1, len(terms := [(draw, c) for draw, c in direction if draw.part is None or block in draw.part]))
        for draw, c in terms:
            made.add(0, *self._terms_of(draw._replace(part=None)).at(self._place[block.name]), c)
        return made.terms[0] if made.fused[0] else None

    def _to_scratch(self, tile: Tile, out: Any, terms: np.ndarray, source: Any, kind: int, keep: float) -> None:
        """Out ← keep·source + terms on a tile, or the terms alone, which are numbered as the block's entries."""
        start = tile.start * (tile.size // tile.shape[0])
        starts = np.arange(start, start + tile.size, PIECE)
        jobs = np.zeros(len(starts), JOB)
        jobs["source"], jobs["target"] = address(source) - 4 * start, address(out) - 4 * start
        jobs["start"], jobs["stop"] = starts, np.minimum(starts + PIECE, start + tile.size)
        jobs["terms"], jobs["count"], jobs["dtype"], jobs["keep"] = address(terms), len(terms), kind, keep
        self._run(jobs)

    def _move(self, keep: float, decayed: Direction, plain: Direction) -> None:
        if keep == 1.0 and decayed == plain:
            self._pass(self._everywhere, 1.0, plain)
        else:
            self._pass(self._everywhere[self._decaying], keep, decayed)
            self._pass(self._everywhere[~self._decaying], 1.0, plain)
        for block in self.blocks:
            if block.name in self._masters and self._moves(block, decayed, plain):
                block.array[:] = self._masters[block.name]

    def _pass(self, places: np.ndarray, keep: float, direction: Direction, target: Any = None) -> None:
        """The blocks at some places ← keep·block + direction, or into `target` where there is one block."""
        if all(draw.part is None for draw, _ in direction):
            self._uniform_pass(places, keep, [*direction], target)
            return
        present = np.array([self._within(draw.part)[places] for draw, _ in direction])
        patterns, which = np.unique(present, axis=1, return_inverse=True)
        for index, pattern in enumerate(patterns.T):
            terms = [
                (draw._replace(part=None), c) for (draw, c), is_in in zip(direction, pattern, strict=True) if is_in
            ]
            if terms or keep != 1.0 or target is not None:
                self._uniform_pass(places[which.reshape(-1) == index], keep, terms, target)

    def _within(self, part: Part | None) -> np.ndarray:
        """For each block, whether it belongs to a part."""
        return np.array([part is None or block in part for block in self.blocks])

    def _uniform_pass(
        self, places: np.ndarray, keep: float, direction: Sequence[tuple[Draw, float]], target: Any
    ) -> None:
        """A pass whose terms are the same for all its blocks."""
        name = places.tobytes()
        if name not in self._plans:
            self._plans[name] = _Plan(self, places)
        plan = self._plans[name]
        parts = [(self._terms_of(draw), c) for draw, c in direction]
        by_chance = self._by_chance and target is None
        terms = np.zeros((len(plan.places), len(parts) + by_chance), TERM)
        fused = np.ones(len(plan.places), bool)
        for k, (drawn, c) in enumerate(parts):
            terms[:, k], can_fuse = drawn.on(plan.places)
            terms["coefficient"][:, k] = c
            fused &= can_fuse
        if by_chance:
            for line, place in zip(terms, plan.places, strict=True):
                line["key0"][-1], line["key1"][-1] = self._chances_of(self.blocks[place])
        jobs = plan.jobs[fused[plan.owner]]
        jobs["keep"], jobs["count"], jobs["by_chance"] = keep, len(parts), by_chance
        jobs["terms"] = terms.ctypes.data + plan.owner[fused[plan.owner]] * terms.strides[0]
        if target is not None:
            _aim(jobs, self.blocks[plan.places[0]], self, target)
        self._run(jobs)
        for place in plan.places[~fused]:
            self._tile_by_tile(self.blocks[place], keep, direction, target)

    def _tile_by_tile(self, block: Block, keep: float, direction: Sequence[tuple[Draw, float]], target: Any) -> None:
        by_chance = self._by_chance and target is None
        chances = self._chances_of(block) if by_chance else (0, 0)
        for tile in block.tiles():
            entries = self.entries(direction, tile)
            start = tile.start * (block.size // block.shape[0])
            values = (KINDS["values"], 0, 0, 0, 1.0, 0, address(entries) - 4 * start, 0, 0, 0)
            terms = np.array([values, (0, 0, *chances, 0.0, 0, 0, 0, 0, 0)], TERM)
            jobs = _jobs(self, block, start, start + tile.size)
            jobs["terms"], jobs["count"], jobs["keep"], jobs["by_chance"] = terms.ctypes.data, 1, keep, by_chance
            if target is not None:
                _aim(jobs, block, self, target)
            self._run(jobs)

    def _chances_of(self, block: Block) -> Stream:
        """The stream that rounds a block in the pass that goes on."""
        return stream(self._chances, block.name, "rounding")

    def _cut(self, tiles: Sequence[Tile]) -> "_Cut":
        """How some tiles are written; kept where it is one tile, which comes again at every question."""
        if len(tiles) > 1:
            return _Cut(self, tiles)
        name = (self._place[tiles[0].block.name], tiles[0].start, tiles[0].stop)
        if name not in self._cuts:
            self._cuts[name] = _Cut(self, tiles)
        return self._cuts[name]

    def _terms_of(self, draw: Draw) -> "_Drawn":
        """The terms of one draw on every block, kept for the next few passes; arrays are never kept alive."""
        if isinstance(draw.sampler, Held):
            return _Drawn(self, draw)
        if draw not in self._drawn:
            self._forget()
            self._drawn[draw] = _Drawn(self, draw)
        self._drawn.move_to_end(draw)
        return self._drawn[draw]

    def _forget(self) -> None:
        """Make room for one more draw."""
        with_factors = [draw for draw, drawn in self._drawn.items() if drawn.held]
        for draw in with_factors[: max(0, len(with_factors) - REMEMBERED + 1)]:
            del self._drawn[draw]
        while len(self._drawn) >= NOTED:
            self._drawn.popitem(last=False)

    def _run(self, jobs: np.ndarray) -> None:
        taken = ctypes.c_int32(0)
        arguments = (jobs.ctypes.data, len(jobs), ctypes.addressof(taken))
        helpers = min(self._threads, len(jobs)) - 1
        others = [self._pool.submit(self._library.zoplat_run, *arguments) for _ in range(helpers)]
        self._library.zoplat_run(*arguments)
        for other in others:
            other.result()


def space_of(blocks: Sequence[Block], seed: int) -> ParameterSpace:
    """A space of float32 arrays of numpy, moved by the kernels where a compiler is at hand."""
    if kernels := library():
        return HostSpace(blocks, kernels, np.empty, "in-place", mapped, seed=seed)
    return ParameterSpace(blocks, ReferenceNoise(), np.empty, "in-place", mapped, seed=seed)


class _Plan:
    """Some blocks of a space and the jobs that cover them.

    Attributes:
        places: indices of the blocks.
        jobs: without terms.
        owner: for each job, the index into `places` of its block.
    """

    def __init__(self, space: HostSpace, places: np.ndarray) -> None:
        made = [_jobs(space, space.blocks[place], 0, space.blocks[place].size) for place in places]
        self.places = places
        self.jobs = np.concatenate(made) if made else np.zeros(0, JOB)
        self.owner = np.repeat(np.arange(len(made)), [len(jobs) for jobs in made])


class HostPoints(Points):
    """Points that are drawn, scaled and added in registers, all of them in one go of all cores."""

    def __init__(self, space: HostSpace, directions: Sequence[Direction]) -> None:
        super().__init__(space, directions)
        self.host = space
        self._terms = [[(draw.part, space._terms_of(draw._replace(part=None)), c) for draw, c in d] for d in directions]
        self._most = max((len(terms) for terms in self._terms), default=0)
        self._lines: dict[int, _Lines] = {}

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Any) -> None:
        cut = self.host._cut(tiles)
        lines = [self._line(self.host._place[tile.block.name]) for tile in tiles]
        numbers, owner = np.array(chosen), cut.owner
        jobs = np.repeat(cut.jobs[:, None], len(numbers), axis=1)  # piece by piece: θ is read from memory once for all
        jobs["target"] += address(target) + np.arange(len(numbers)) * cut.bytes
        jobs["terms"] = np.array([line.address for line in lines])[owner, None]
        jobs["terms"] += numbers * (self._most * TERM.itemsize)
        jobs["count"] = np.array([line.counts[numbers] for line in lines])[owner]
        if all(line.all_fused for line in lines):
            self.host._run(jobs.reshape(-1))
            return
        fused = np.array([line.fused[numbers] for line in lines])
        self.host._run(jobs[fused[owner]])
        for k, i in np.argwhere(~fused):
            super().write([tiles[k]], [chosen[i]], [target[i][cut.begins[k] : cut.begins[k] + tiles[k].size]])

    def _line(self, place: int) -> "_Lines":
        """The terms of every direction on one block."""
        if place not in self._lines:
            block, made = self.host.blocks[place], _Lines(len(self.directions), self._most)
            for number, terms in enumerate(self._terms):
                for part, drawn, c in terms:
                    if part is None or block in part:
                        made.add(number, *drawn.at(place), c)
            self._lines[place] = made
            made.all_fused = bool(made.fused.all())
        return self._lines[place]


class _Cut:
    """Some tiles cut into jobs that write them one after the other.

    Attributes:
        jobs: their targets numbered from 0, without terms.
        owner: for each job, the number of its tile.
        begins: for each tile, the entries before it.
        bytes: of all tiles.
    """

    def __init__(self, space: HostSpace, tiles: Sequence[Tile]) -> None:
        block = tiles[0].block
        width = np.array([tile.block.size // tile.block.shape[0] for tile in tiles])
        start, stop = (np.array([getattr(tile, end) for tile in tiles]) * width for end in ("start", "stop"))
        pieces = -(-(stop - start) // PIECE)
        self.begins = np.cumsum(stop - start) - (stop - start)
        self.bytes = int((stop - start).sum()) * block.array.itemsize
        self.owner = np.repeat(np.arange(len(tiles)), pieces)
        first = start[self.owner] + (np.arange(len(self.owner)) - (np.cumsum(pieces) - pieces)[self.owner]) * PIECE
        self.jobs = np.zeros(len(self.owner), JOB)
        self.jobs["source"] = np.array([address(space._theta_of(tile.block)) for tile in tiles])[self.owner]
        self.jobs["target"] = (self.begins - start)[self.owner] * block.array.itemsize
        self.jobs["start"], self.jobs["stop"] = first, np.minimum(first + PIECE, stop[self.owner])
        self.jobs["dtype"], self.jobs["keep"] = _formed(space, block), 1.0


class _Lines:
    """Terms of one block, a line for each of several directions.

    Attributes:
        terms: (directions, most terms of one).
        address: where they begin.
        counts: terms of each line.
        fused: whether the kernels can draw all of a line.
        all_fused: whether they can draw all lines.
    """

    def __init__(self, directions: int, most: int) -> None:
        self.terms = np.zeros((directions, most), TERM)
        self.address = address(self.terms)
        self.counts = np.zeros(directions, np.int32)
        self.fused = np.ones(directions, bool)
        self.all_fused = False

    def add(self, number: int, term: Any, is_fused: bool, c: float) -> None:
        """One more term."""
        place = self.counts[number]
        self.terms[number, place] = term
        self.terms["coefficient"][number, place] = c
        self.fused[number] &= is_fused
        self.counts[number] += 1


def _jobs(space: HostSpace, block: Block, start: int, stop: int) -> np.ndarray:
    """Jobs over entries `start` to `stop` of θ on a block, in place, without terms."""
    starts = np.arange(start, stop, ENTRIES)
    jobs = np.zeros(len(starts), JOB)
    jobs["source"] = jobs["target"] = address(space._theta_of(block))
    jobs["start"], jobs["stop"] = starts, np.minimum(starts + ENTRIES, stop)
    jobs["dtype"] = DTYPES["float32" if block.name in space._masters else block.dtype]
    return jobs


def _aim(jobs: np.ndarray, block: Block, space: HostSpace, target: Any) -> None:
    """Have jobs on a block write to an array of the block's dtype beside it."""
    jobs["target"], jobs["dtype"] = address(target), _formed(space, block)


def _formed(space: HostSpace, block: Block) -> int:
    """How the kernels call the way from θ on a block to an array of the block's dtype."""
    return FROM_FLOAT32[block.dtype] if block.name in space._masters else DTYPES[block.dtype]


class _Drawn:
    """One draw as the kernels draw it.

    Attributes:
        held: the arrays that terms point to.
    """

    def __init__(self, space: HostSpace, draw: Draw) -> None:
        self.held: list[Any] = []
        self._space, self._draw = space, draw
        self._terms = np.zeros(len(space.blocks), TERM)
        self._known = np.zeros(len(space.blocks), bool)
        self._fused = np.zeros(len(space.blocks), bool)

    def at(self, place: int) -> tuple[Any, bool]:
        """On one block, the term without coefficient, and whether the kernels can draw it."""
        if not self._known[place]:
            block = self._space.blocks[place]
            term = self._term(self._space, self._draw, Tile(block, 0, block.shape[0]))
            if term is not None:
                self._terms[place], self._fused[place] = term, True
            self._known[place] = True
        return self._terms[place], bool(self._fused[place])

    def on(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for several blocks."""
        for place in places[~self._known[places]]:
            self.at(place)
        return self._terms[places], self._fused[places]

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(int(array.nbytes) for array in self.held)

    def _term(self, space: HostSpace, draw: Draw, tile: Tile) -> tuple[Any, ...] | None:
        sampler, key = draw.sampler, draw.key
        scale = _scale(draw, tile.block)
        if scale is None:
            return None
        if isinstance(sampler, Held):
            array = sampler.buffer.arrays.get(tile.block.name)
            return None if array is None else (KINDS["values"], 0, 0, 0, 0.0, 0, address(array), 0, *scale)
        factors = sampler.factors(tile, key, space.noise)
        if factors is not None:
            u, v = (_contiguous(array) for array in (factors[0], factors[1].T))
            self.held += [u, v]
            return (KINDS["low-rank"], u.shape[1], 0, 0, 0.0, tile.shape[1], address(u), address(v), *scale)
        sink = _Sink()
        try:
            sampler.fill(sink, tile, key, _NOTES)
        except (TypeError, AttributeError):  # the law computes with its numbers
            return None
        note = sink.note
        if note is None or (note.first, note.shape) != (0, tile.shape):
            return None
        return (KINDS[note.law], 0, *note.stream, 0.0, 0, 0, 0, *scale)


def _scale(draw: Draw, block: Block) -> tuple[int, int] | None:
    """Where the scale of a draw is on a block, and whether its root divides; None where the kernels have no way."""
    if not draw.scales:
        return 0, 0
    [(buffer, power), *others] = draw.scales
    array = buffer.arrays.get(block.name)
    plain = array is not None and tuple(array.shape) == block.shape and str(array.dtype).endswith("float32")
    if others or not plain or power not in (1.0, -0.5):
        return None
    return address(array), int(power == -0.5)


class _Notes(Noise):
    """Writes down what was asked for instead of making it."""

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        return _Note(law, stream, first, shape)


class _Note:
    """What was asked for. Computes with nothing, so that a law which computes is noticed."""

    __slots__ = ("first", "law", "shape", "stream")

    def __init__(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> None:
        self.law, self.stream, self.first, self.shape = law, stream, first, shape


class _Sink:
    """Stands for `out`: takes one note for the whole tile and nothing else."""

    note: _Note | None = None

    def __setitem__(self, index: Any, value: Any) -> None:
        if index != slice(None) or not isinstance(value, _Note) or self.note is not None:
            raise TypeError("not a plain draw")
        self.note = value


_NOTES = _Notes()


def _contiguous(array: Any) -> Any:
    """The array itself or a copy without gaps, for numpy and torch."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array)


def address(array: Any) -> int:
    """Where a contiguous array of numpy or torch begins."""
    pointer = array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data
    return int(pointer)
