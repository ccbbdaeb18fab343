"""Moves at memory speed, drawn, scaled and added in registers: the backend and the noise for any kind of kernels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Buffer, Part, Tile
from zoplat.core.direction import Direction, Draw
from zoplat.core.noise import Noise, Stream
from zoplat.core.sampler import Held
from zoplat.space.backend import Backend, Kernel, Points
from zoplat.space.drift import DriftMeter
from zoplat.space.rounding import Rounding
from zoplat.space.update import Update
from zoplat_devices.kernels.drawn import Drawn
from zoplat_devices.kernels.plans import PIECE, Cut, Plan, conversion, jobs_on, scratch_jobs
from zoplat_devices.kernels.tables import DTYPES, SUM, TERMS, Jobs, Kernels, Sums, address
from zoplat_devices.kernels.traced import Program, traced

REMEMBERED = 2  # draws whose factors are kept: a probe comes back when its sign changes, restored and applied
WITHOUT_FACTORS = 64  # draws whose terms are kept where these are a few kilobytes
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


class FusedBackend(Backend):
    """A backend whose moves are drawn, scaled and added in registers, wherever its kernels run.

    A law that only names numbers (`out[:] = noise.normal(...)`) or factors is fused; any other is filled tile
    by tile and added by the same kernel. The arithmetic is that of `Backend`, bit for bit.

    Args:
        kernels: of the device.
        empty, mapped, release: as in `Backend`.
    """

    def __init__(
        self,
        kernels: Kernels,
        empty: Callable[[tuple[int, ...], str], Any],
        mapped: Callable[[tuple[int, ...], str], Any] | None = None,
        release: Callable[[Any], None] = lambda array: None,
    ) -> None:
        super().__init__(FusedNoise(kernels, empty), empty, mapped, release)
        self.kernels = kernels
        self._remembered = REMEMBERED
        self._drawn: OrderedDict[Draw, Drawn] = OrderedDict()
        self._plans: dict[bytes, Plan] = {}
        self._cuts: dict[tuple[tuple[int, int, int], ...], Cut] = {}
        self._rule: tuple[Kernel, frozenset[int], Program | None] | None = None
        self._ready: OrderedDict[int, tuple[Direction, Sums]] = OrderedDict()

    @property
    def name(self) -> str:
        return type(self.kernels).__name__

    def attach(self, blocks: Sequence[Block], rounding: Rounding) -> None:
        super().attach(blocks, rounding)
        self._place = {block.name: place for place, block in enumerate(blocks)}
        self._everywhere = np.arange(len(blocks))

    @property
    def scratch_bytes(self) -> int:
        return super().scratch_bytes + sum(drawn.bytes for drawn in self._drawn.values())

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
            self.kernels.run(plan.beside, sums, base=address(target), which=plan.of_line(line))
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
        drawn.find(place)
        return drawn.factors.get(place)

    def anticipate(self, update: Update) -> None:
        """Deferred draws come back at every question: their factors are kept as well."""
        self._remembered = REMEMBERED + len(update.decayed)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Any:
        terms = [*direction]
        sums = self._sums_on(terms, tile.block)
        if not sums.fused[0]:
            return super().entries(terms, tile, purpose)
        out = self.scratch(tile, purpose)
        self.kernels.run(scratch_jobs(tile, out, out, SUM), sums)
        return out

    def moved(self, tile: Tile, update: Update) -> Any:
        theta, (factor, direction) = self.rounding.theta_of(tile.block), update.on(tile.block)
        sums = self._sums_on([*direction], tile.block)
        if not sums.fused[0] or not _is_float32(theta):
            return super().moved(tile, update)
        out = self.scratch(tile, "theta")
        self.kernels.run(scratch_jobs(tile, tile.of(theta), out, DTYPES["float32"]), sums, factor)
        return out

    def sweep(
        self,
        block: Block,
        kernel: Kernel,
        update: Update,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        arrays = [buffer.arrays.get(block.name) for buffer in buffers]
        program = self._traced(kernel, arrays) if self._runs_rules_on(block, arrays) else None
        factor, moves = update.on(block)
        moving, entries = self._sums_on([*moves], block), self._sums_on([*direction], block)
        if program is None or not (moving.fused[0] and entries.fused[0]):
            super().sweep(block, kernel, update, direction, buffers, drift)
            return
        places = [0 if array is None else address(array) for array in arrays]
        jobs = Jobs(jobs_on(block, self.rounding, 0, block.size, PIECE))
        sampled = Tile(block, 0, drift.rows(block))
        before = drift.before(sampled, self.moved(sampled, update)) if sampled.stop else None
        self.kernels.rule(jobs, moving, factor, entries, program, places)
        self.rounding.publish(block)
        drift.after(sampled, sampled.of(self.rounding.theta_of(block)), before)

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        places = np.array([self._place[block.name] for block in blocks], int)
        decays = np.array([block.decays for block in blocks], bool)
        if update.is_uniform:
            self._pass(places, 1.0, update.plain)
        else:
            self._pass(places[decays], update.keep, update.decayed)
            self._pass(places[~decays], 1.0, update.plain)
        for block in blocks:
            self.rounding.publish(block)

    def cut(self, tiles: Sequence[Tile]) -> Cut:
        """How some tiles are written; kept where they are one or whole blocks, which come again at every question."""
        if len(tiles) > 1 and any(tile.size < tile.block.size for tile in tiles):
            return Cut(tiles, self.rounding)
        name = tuple((self._place[tile.block.name], tile.start, tile.stop) for tile in tiles)
        if name not in self._cuts:
            self._cuts[name] = Cut(tiles, self.rounding)
        return self._cuts[name]

    def sums(self, tiles: Sequence[Tile], direction: Direction) -> Sums:
        """A direction on the blocks of some tiles, a line each."""
        return self._sums(np.array([self._place[tile.block.name] for tile in tiles]), direction)

    def _runs_rules_on(self, block: Block, arrays: Sequence[Any]) -> bool:
        """Whether the kernels run rules on a block and these arrays of buffers."""
        present = [array for array in arrays if array is not None]
        alike = all(tuple(array.shape) == block.shape for array in present)
        return self.kernels.rules and alike and all(map(_is_float32, [self.rounding.theta_of(block), *present]))

    def _traced(self, kernel: Kernel, arrays: Sequence[Any]) -> Program | None:
        """A rule's program; kept for the next block."""
        absent = frozenset(place + 2 for place, array in enumerate(arrays) if array is None)
        if self._rule is None or self._rule[0] is not kernel or self._rule[1] != absent:
            self._rule = kernel, absent, traced(kernel, len(arrays) + 2, absent)
        return self._rule[2]

    def _pass(self, places: np.ndarray, factor: float, direction: Direction) -> None:
        """The blocks at some places ← factor·block + direction."""
        plan, sums = self._plan(places), self._sums(places, direction)
        if self.rounding.is_stochastic and len(places):
            streams = [self.rounding.stream(self.blocks[place]) for place in places]
            lines = np.arange(len(places))
            sums.terms["key0"][lines, sums.counts], sums.terms["key1"][lines, sums.counts] = zip(*streams, strict=True)
        moves = sums.counts > 0 if factor == 1.0 else np.ones(len(places), bool)
        self.kernels.run(plan.on(moves & sums.fused), sums, factor, is_stochastic=self.rounding.is_stochastic)
        for place in places[moves & ~sums.fused]:
            self._tile_by_tile(self.blocks[place], factor, direction)

    def _tile_by_tile(self, block: Block, factor: float, direction: Direction, target: Any = None) -> None:
        is_stochastic = self.rounding.is_stochastic and target is None
        sums = Sums(1, 2)
        if is_stochastic:
            sums.terms["key0"][0, 1], sums.terms["key1"][0, 1] = self.rounding.stream(block)
        for tile in block.tiles():
            entries = self.entries(direction, tile)
            start = tile.start * (block.size // block.shape[0])
            sums.terms[0, 0] = (TERMS["values"], 0, 0, 0, 1.0, 0, address(entries) - 4 * start, 0, 0, 0)
            sums.counts[0] = 1
            rows = jobs_on(block, self.rounding, start, start + tile.size)
            if target is not None:
                rows["target"], rows["dtype"] = address(target), conversion(block, self.rounding)
            sums.copy = None
            self.kernels.run(Jobs(rows), sums, factor, is_stochastic=is_stochastic)

    def _sums_on(self, terms: Sequence[tuple[Draw, float]], block: Block) -> Sums:
        """A direction on one block."""
        return self._sums(np.array([self._place[block.name]]), terms)

    def _sums(self, places: np.ndarray, direction: Direction | Sequence[tuple[Draw, float]]) -> Sums:
        """A direction on some blocks, a line each; with room for the stream of stochastic rounding."""
        sums = Sums(len(places), len(direction) + self.rounding.is_stochastic)
        for draw, c in direction:
            lines, drawn = self._within(draw.part, places), self._terms_of(draw._replace(part=None))
            sums.add(lines, *drawn.on(places[lines]), c)
            sums.held.append(drawn)
        return sums

    def _within(self, part: Part | None, places: np.ndarray) -> np.ndarray:
        """Which of some blocks belong to a part."""
        return np.flatnonzero([part is None or self.blocks[place] in part for place in places])

    def _ready_sums(self, direction: Direction) -> Sums:
        """A direction on all blocks, kept for the next of them."""
        if id(direction) not in self._ready:
            self._ready[id(direction)] = direction, self._sums(self._everywhere, direction)
            if len(self._ready) > READY:
                self._ready.popitem(last=False)
        return self._ready[id(direction)][1]

    def _plan(self, places: np.ndarray) -> Plan:
        name = places.tobytes()
        if name not in self._plans:
            self._plans[name] = Plan([self.blocks[place] for place in places], self.rounding)
        return self._plans[name]

    def _terms_of(self, draw: Draw) -> Drawn:
        """The terms of one draw on every block, kept for the next few passes; arrays are never kept alive."""
        if isinstance(draw.sampler, Held):
            return Drawn(self.blocks, self.noise, draw)
        if draw not in self._drawn:
            self._make_room()
            self._drawn[draw] = Drawn(self.blocks, self.noise, draw)
        self._drawn.move_to_end(draw)
        return self._drawn[draw]

    def _make_room(self) -> None:
        """Forget what is not needed for one more draw."""
        with_factors = [draw for draw, drawn in self._drawn.items() if drawn.held]
        for draw in with_factors[: max(0, len(with_factors) - self._remembered + 1)]:
            del self._drawn[draw]
            self._ready.clear()
        while len(self._drawn) >= WITHOUT_FACTORS:
            self._drawn.popitem(last=False)


class FusedPoints(Points):
    """Points that are drawn, scaled and added in registers, all of them in one go."""

    def __init__(self, backend: FusedBackend, directions: Sequence[Direction]) -> None:
        super().__init__(backend, directions)
        self._fused = backend
        self._known: dict[tuple[str, ...], Sums] = {}

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Any) -> None:
        cut, n = self._fused.cut(tiles), len(self.directions)
        sums = self._sums(tiles)
        jobs = cut.jobs(n, tuple(chosen))
        fused = sums.fused.reshape(len(tiles), n)[:, list(chosen)]
        if not fused.all():
            jobs = Jobs(jobs.rows[sums.fused[jobs.rows["line"]]])
        self._fused.kernels.run(jobs, sums, base=address(target))
        for k, i in np.argwhere(~fused):
            super().write([tiles[k]], [chosen[i]], [target[i][cut.begins[k] : cut.begins[k] + tiles[k].size]])

    def _sums(self, tiles: Sequence[Tile]) -> Sums:
        """The terms on the blocks of some tiles, a line for each direction, block after block."""
        name = tuple(tile.block.name for tile in tiles)
        if name not in self._known:
            self._known[name] = Sums.interleaved([self._fused.sums(tiles, direction) for direction in self.directions])
        return self._known[name]


def _is_float32(array: Any) -> bool:
    return str(array.dtype).endswith("float32")
