"""Moves at memory speed, drawn, scaled and added in registers: the space and the noise for any kind of kernels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from zoplat.blocks import Block, Buffer, Part, Tile
from zoplat.direction import Direction, Draw
from zoplat.rounding import Rounding
from zoplat.sampler import Held, Noise, Stream, stream
from zoplat.space import ParameterSpace, Points, Restore
from zoplat_devices.memory import mapped
from zoplat_devices.native import kernels as native_kernels
from zoplat_devices.noise import ReferenceNoise
from zoplat_devices.tables import DTYPES, FROM_FLOAT32, JOB, KINDS, SUM, TERM, Jobs, Kernels, Sums
from zoplat_devices.traced import Program, traced

ENTRIES = 1 << 20  # of one job: long enough to amortise a call, short enough to share evenly between threads
PIECE = 1 << 16  # of one job where blocks are formed beside the weights, a few at a time
REMEMBERED = 2  # draws whose factors are kept: a probe comes back when it is turned round, restored and applied
NOTED = 64  # draws whose terms are kept where these are a few kilobytes
READY = 4  # directions whose terms on all blocks are kept while the blocks are formed one after the other


class FusedNoise(Noise):
    """The numbers of `ReferenceNoise`, made by kernels, in arrays that `empty` makes."""

    def __init__(self, kernels: Kernels, empty: Callable[[tuple[int, ...], str], Any]) -> None:
        self.kernels = kernels
        self.empty = empty

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        """Numbers `first`, `first` + 1, … of a stream, float32 of `shape`."""
        out = self.empty(shape, "float32")
        self.kernels.numbers(address(out), law, stream, first, math.prod(shape))
        return out


class FusedSpace(ParameterSpace):
    """A parameter space whose moves are drawn, scaled and added in registers, wherever its kernels run.

    A law that only names numbers (`out[:] = noise.normal(...)`) or factors is fused; any other is filled tile
    by tile and added by the same kernel. The arithmetic is that of `ParameterSpace`, bit for bit.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        kernels: Kernels,
        empty: Callable[[tuple[int, ...], str], Any],
        restore: Restore,
        mapped: Callable[[tuple[int, ...], str], Any] | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        self.kernels = kernels
        self._drawn: OrderedDict[Draw, _Drawn] = OrderedDict()
        self._plans: dict[bytes, _Plan] = {}
        self._cuts: dict[tuple[tuple[int, int, int], ...], _Cut] = {}
        self._rule: tuple[Callable[..., None], frozenset[int], Program | None] | None = None
        self._ready: OrderedDict[int, tuple[Direction, Sums]] = OrderedDict()
        super().__init__(blocks, FusedNoise(kernels, empty), empty, restore, mapped, rounding, seed)
        self._place = {block.name: place for place, block in enumerate(self.blocks)}
        self._everywhere = np.arange(len(self.blocks))

    @property
    def scratch_bytes(self) -> int:
        return super().scratch_bytes + sum(drawn.bytes for drawn in self._drawn.values())

    @property
    def _remembered(self) -> int:
        """Draws whose factors are kept: those that were put off come back at every question."""
        return REMEMBERED + len(self._shift)

    def form(self, block: Block, direction: Direction, target: Any) -> None:
        place = self._place[block.name]
        places, line = self._everywhere, place
        if any(isinstance(draw.sampler, Held) for draw, _ in direction):  # its arrays may be others next time
            places, line = np.array([place]), 0
            sums = self._sums(places, direction)
        else:
            sums = self._ready_sums(direction)
        if sums.fused[line]:
            plan = self._plan(places)
            self.kernels.run(plan.apart, sums, base=address(target), which=plan.of_line(line))
        else:
            self._tile_by_tile(block, 1.0, direction, target)

    def points(self, directions: Sequence[Direction]) -> Points:
        return FusedPoints(self, directions)

    def factors(self, draw: Draw, block: Block) -> tuple[Any, Any] | None:
        name = draw._replace(part=None)
        full = sum(bool(drawn.held) for drawn in self._drawn.values()) >= self._remembered
        if draw.scales or (full and name not in self._drawn):
            return super().factors(draw, block)
        drawn, place = self._terms_of(name), self._place[block.name]
        drawn.at(place)
        return drawn.factors.get(place)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Any:
        terms = [*direction]
        sums = self._sums_on(terms, tile.block)
        if not sums.fused[0]:
            return super().entries(terms, tile, purpose)
        out = self._space_for(tile, purpose)
        self._to_scratch(tile, out, sums, out, SUM, 1.0)
        return out

    def _moved(self, tile: Tile, keep: float, decayed: Direction, plain: Direction) -> Any:
        theta, (direction, factor) = self._theta_of(tile.block), (decayed, keep) if tile.block.decays else (plain, 1.0)
        sums = self._sums_on([*direction], tile.block)
        if not sums.fused[0] or not str(theta.dtype).endswith("float32"):
            return super()._moved(tile, keep, decayed, plain)
        out = self._space_for(tile, "theta")
        self._to_scratch(tile, out, sums, tile.of(theta), DTYPES["float32"], factor)
        return out

    def _sweep(
        self,
        block: Block,
        kernel: Callable[..., None],
        direction: Direction,
        buffers: Sequence[Buffer],
        factored: bool,
    ) -> None:
        arrays = [buffer.arrays.get(block.name) for buffer in buffers]
        program = None if factored or not self._rules_on(block, arrays) else self._traced(kernel, arrays)
        moves = self._sums_on([*(self._shift if block.decays else self._plain)], block)
        entries = self._sums_on([*direction], block)
        if program is None or not (moves.fused[0] and entries.fused[0]):
            super()._sweep(block, kernel, direction, buffers, factored)
            return
        places = [0 if array is None else address(array) for array in arrays]
        jobs = Jobs(_jobs(self, block, 0, block.size, PIECE))
        sampled = Tile(block, 0, self._drift.rows(block))
        before = self._drift.before(sampled, self._at_theta(sampled)) if sampled.stop else None
        self.kernels.rule(jobs, moves, self._keep if block.decays else 1.0, entries, program, places)
        self._follow_master(block)
        self._drift.after(sampled, sampled.of(self._theta_of(block)), before)

    def _rules_on(self, block: Block, arrays: Sequence[Any]) -> bool:
        """Whether the kernels run rules on a block and these arrays of buffers."""
        alike = all(array is None or tuple(array.shape) == block.shape for array in arrays)
        held = [self._theta_of(block), *(array for array in arrays if array is not None)]
        return self.kernels.rules and alike and all(str(array.dtype).endswith("float32") for array in held)

    def _traced(self, kernel: Callable[..., None], arrays: Sequence[Any]) -> Program | None:
        """A rule's program; kept for the next block."""
        absent = frozenset(place + 2 for place, array in enumerate(arrays) if array is None)
        if self._rule is None or self._rule[0] is not kernel or self._rule[1] != absent:
            self._rule = kernel, absent, traced(kernel, len(arrays) + 2, absent)
        return self._rule[2]

    def _to_scratch(self, tile: Tile, out: Any, sums: Sums, source: Any, dtype: int, keep: float) -> None:
        """Out ← keep·source + terms on a tile, or the terms alone, which are numbered as the block's entries."""
        start = tile.start * (tile.size // tile.shape[0])
        starts = np.arange(start, start + tile.size, PIECE)
        rows = np.zeros(len(starts), JOB)
        rows["source"], rows["target"] = address(source) - 4 * start, address(out) - 4 * start
        rows["start"], rows["stop"] = starts, np.minimum(starts + PIECE, start + tile.size)
        rows["dtype"] = dtype
        self.kernels.run(Jobs(rows), sums, keep)

    def _move(self, blocks: Sequence[Block], keep: float, decayed: Direction, plain: Direction) -> None:
        places = np.array([self._place[block.name] for block in blocks], int)
        decays = np.array([block.decays for block in blocks], bool)
        if keep == 1.0 and decayed == plain:
            self._pass(places, 1.0, plain)
        else:
            self._pass(places[decays], keep, decayed)
            self._pass(places[~decays], 1.0, plain)
        for block in blocks:
            self._follow_master(block)

    def _follow_master(self, block: Block) -> None:
        if block.name in self._masters:
            block.array[:] = self._masters[block.name]

    def _pass(self, places: np.ndarray, keep: float, direction: Direction) -> None:
        """The blocks at some places ← keep·block + direction."""
        plan, sums = self._plan(places), self._sums(places, direction)
        if self._by_chance and len(places):
            chances = [stream(self._chances, self.blocks[place].name, "rounding") for place in places]
            lines = np.arange(len(places))
            sums.terms["key0"][lines, sums.counts], sums.terms["key1"][lines, sums.counts] = zip(*chances, strict=True)
        moves = sums.counts > 0 if keep == 1.0 else np.ones(len(places), bool)
        self.kernels.run(plan.on(moves & sums.fused), sums, keep, by_chance=self._by_chance)
        for place in places[moves & ~sums.fused]:
            self._tile_by_tile(self.blocks[place], keep, direction)

    def _sums_on(self, terms: Sequence[tuple[Draw, float]], block: Block) -> Sums:
        """A direction on one block."""
        return self._sums(np.array([self._place[block.name]]), terms)

    def _sums(self, places: np.ndarray, direction: Direction | Sequence[tuple[Draw, float]]) -> Sums:
        """A direction on some blocks, a line each; with room for the stream of the chances."""
        sums = Sums(len(places), len(direction) + self._by_chance)
        for draw, c in direction:
            lines, drawn = self._within(draw.part, places), self._terms_of(draw._replace(part=None))
            sums.add(lines, *drawn.on(places[lines]), c)
            sums.held.append(drawn)
        return sums

    def _within(self, part: Part | None, places: np.ndarray) -> np.ndarray:
        """Which of some blocks belong to a part."""
        return np.flatnonzero([part is None or self.blocks[place] in part for place in places])

    def _ready_sums(self, direction: Direction) -> Sums:
        """The same on all blocks, kept for the next of them."""
        if id(direction) not in self._ready:
            self._ready[id(direction)] = direction, self._sums(self._everywhere, direction)
            if len(self._ready) > READY:
                self._ready.popitem(last=False)
        return self._ready[id(direction)][1]

    def _plan(self, places: np.ndarray) -> _Plan:
        name = places.tobytes()
        if name not in self._plans:
            self._plans[name] = _Plan(self, places)
        return self._plans[name]

    def _tile_by_tile(self, block: Block, keep: float, direction: Direction, target: Any = None) -> None:
        by_chance = self._by_chance and target is None
        sums = Sums(1, 2)
        if by_chance:
            sums.terms["key0"][0, 1], sums.terms["key1"][0, 1] = stream(self._chances, block.name, "rounding")
        for tile in block.tiles():
            entries = self.entries(direction, tile)
            start = tile.start * (block.size // block.shape[0])
            sums.terms[0, 0] = (KINDS["values"], 0, 0, 0, 1.0, 0, address(entries) - 4 * start, 0, 0, 0)
            sums.counts[0] = 1
            rows = _jobs(self, block, start, start + tile.size)
            if target is not None:
                rows["target"], rows["dtype"] = address(target), _formed(self, block)
            sums.copy = None
            self.kernels.run(Jobs(rows), sums, keep, by_chance=by_chance)

    def _cut(self, tiles: Sequence[Tile]) -> _Cut:
        """How some tiles are written; kept where they are one or whole blocks, which come again at every question."""
        if len(tiles) > 1 and any(tile.size < tile.block.size for tile in tiles):
            return _Cut(self, tiles)
        name = tuple((self._place[tile.block.name], tile.start, tile.stop) for tile in tiles)
        if name not in self._cuts:
            self._cuts[name] = _Cut(self, tiles)
        return self._cuts[name]

    def _terms_of(self, draw: Draw) -> _Drawn:
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
        for draw in with_factors[: max(0, len(with_factors) - self._remembered + 1)]:
            del self._drawn[draw]
            self._ready.clear()
        while len(self._drawn) >= NOTED:
            self._drawn.popitem(last=False)


def space_of(blocks: Sequence[Block], seed: int) -> ParameterSpace:
    """A space of float32 arrays of numpy, moved by the kernels where a compiler is at hand."""
    if kernels := native_kernels():
        return FusedSpace(blocks, kernels, np.empty, "in-place", mapped, seed=seed)
    return ParameterSpace(blocks, ReferenceNoise(), np.empty, "in-place", mapped, seed=seed)


class _Plan:
    """Some blocks of a space and the jobs that cover them.

    Attributes:
        inside: the jobs in place.
        apart: those that write beside the weights, targets counted from where a block's own begins.
        owner: for each job, the number of its block.
    """

    def __init__(self, space: FusedSpace, places: np.ndarray) -> None:
        made = [_jobs(space, space.blocks[place], 0, space.blocks[place].size) for place in places]
        rows = np.concatenate(made) if made else np.zeros(0, JOB)
        self.owner = np.repeat(np.arange(len(made)), [len(jobs) for jobs in made])
        rows["line"] = self.owner
        self.inside, self.apart = Jobs(rows), Jobs(rows.copy())
        self.apart.rows["target"] = 0
        self.apart.rows["dtype"] = np.array([_formed(space, space.blocks[place]) for place in places])[self.owner]
        self._first = np.searchsorted(self.owner, np.arange(len(made) + 1))
        self._chosen: dict[bytes, Jobs] = {}

    def of_line(self, line: int) -> slice:
        """The jobs of one block."""
        return slice(int(self._first[line]), int(self._first[line + 1]))

    def on(self, lines: np.ndarray) -> Jobs:
        """Those in place on some of the blocks, given by a mask."""
        if lines.all():
            return self.inside
        name = lines.tobytes()
        if name not in self._chosen:
            self._chosen[name] = Jobs(self.inside.rows[lines[self.owner]])
        return self._chosen[name]


class FusedPoints(Points):
    """Points that are drawn, scaled and added in registers, all of them in one go."""

    def __init__(self, space: FusedSpace, directions: Sequence[Direction]) -> None:
        super().__init__(space, directions)
        self.fused = space
        self._known: dict[bytes, Sums] = {}

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Any) -> None:
        cut, n = self.fused._cut(tiles), len(self.directions)
        sums = self._sums(np.array([self.fused._place[tile.block.name] for tile in tiles]))
        jobs = cut.jobs(n, tuple(chosen))
        fused = sums.fused.reshape(len(tiles), n)[:, list(chosen)]
        if not fused.all():
            jobs = Jobs(jobs.rows[sums.fused[jobs.rows["line"]]])
        self.fused.kernels.run(jobs, sums, base=address(target))
        for k, i in np.argwhere(~fused):
            super().write([tiles[k]], [chosen[i]], [target[i][cut.begins[k] : cut.begins[k] + tiles[k].size]])

    def _sums(self, places: np.ndarray) -> Sums:
        """The terms on some blocks, a line for each direction, block after block."""
        name = places.tobytes()
        if name not in self._known:
            each = [self.fused._sums(places, direction) for direction in self.directions]
            self._known[name] = Sums.interleaved(each)
        return self._known[name]


class _Cut:
    """Some tiles cut into pieces that are written one after the other.

    Attributes:
        begins: for each tile, the entries before it.
    """

    def __init__(self, space: FusedSpace, tiles: Sequence[Tile]) -> None:
        block = tiles[0].block
        width = np.array([tile.block.size // tile.block.shape[0] for tile in tiles])
        start, stop = (np.array([getattr(tile, end) for tile in tiles]) * width for end in ("start", "stop"))
        pieces = -(-(stop - start) // PIECE)
        self.begins = np.cumsum(stop - start) - (stop - start)
        self._bytes = int((stop - start).sum()) * block.array.itemsize
        owner = np.repeat(np.arange(len(tiles)), pieces)
        first = start[owner] + (np.arange(len(owner)) - (np.cumsum(pieces) - pieces)[owner]) * PIECE
        self._pieces = np.zeros(len(owner), JOB)
        self._pieces["source"] = np.array([address(space._theta_of(tile.block)) for tile in tiles])[owner]
        self._pieces["target"] = (self.begins - start)[owner] * block.array.itemsize
        self._pieces["start"], self._pieces["stop"] = first, np.minimum(first + PIECE, stop[owner])
        self._pieces["line"], self._pieces["dtype"] = owner, _formed(space, block)
        self._jobs: dict[tuple[int, ...], Jobs] = {}

    def jobs(self, points: int, chosen: tuple[int, ...]) -> Jobs:
        """Those that write some of so many points, each behind the other; lines are counted tile by tile."""
        name = (points, *chosen)
        if name not in self._jobs:
            numbers = np.array(chosen)
            rows = np.repeat(self._pieces[:, None], len(numbers), axis=1)  # θ is read from memory once for all
            rows["target"] += np.arange(len(numbers)) * self._bytes
            rows["line"] = rows["line"] * points + numbers
            self._jobs[name] = Jobs(rows.reshape(-1))
        return self._jobs[name]


def _jobs(space: FusedSpace, block: Block, start: int, stop: int, entries: int = ENTRIES) -> np.ndarray:
    """Jobs over entries `start` to `stop` of θ on a block, in place, for the first line."""
    starts = np.arange(start, stop, entries)
    jobs = np.zeros(len(starts), JOB)
    jobs["source"] = jobs["target"] = address(space._theta_of(block))
    jobs["start"], jobs["stop"] = starts, np.minimum(starts + entries, stop)
    jobs["dtype"] = DTYPES["float32" if block.name in space._masters else block.dtype]
    return jobs


def _formed(space: FusedSpace, block: Block) -> int:
    """How the kernels call the way from θ on a block to an array of the block's dtype."""
    return FROM_FLOAT32[block.dtype] if block.name in space._masters else DTYPES[block.dtype]


class _Drawn:
    """One draw as the kernels draw it.

    Attributes:
        held: the arrays that terms point to.
        factors: (U, V) by the place of a block, where there are some.
    """

    def __init__(self, space: FusedSpace, draw: Draw) -> None:
        self.held: list[Any] = []
        self.factors: dict[int, tuple[Any, Any]] = {}
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

    def _term(self, space: FusedSpace, draw: Draw, tile: Tile) -> tuple[Any, ...] | None:
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
            self.factors[space._place[tile.block.name]] = u, v.T
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
