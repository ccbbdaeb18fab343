"""The fused backend: directions are drawn, scaled and added to weights in registers, at memory speed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Buffer, Part, Tile
from zoplat.core.direction import Direction, Draw
from zoplat.core.low_rank import Accumulated
from zoplat.core.sampler import Held
from zoplat.space.backend import Backend, Kernel, Points
from zoplat.space.drift import DriftMeter
from zoplat.space.rounding import Rounding
from zoplat.space.update import Update
from zoplat_devices.kernels.drawn import Drawn, is_for_one_tile
from zoplat_devices.kernels.factors import Factors
from zoplat_devices.kernels.laws import traced_factors
from zoplat_devices.kernels.noise import FusedNoise
from zoplat_devices.kernels.plans import ENTRIES, Cut, Gathered, Plan, has_master, jobs_on, jobs_to, scratch_jobs
from zoplat_devices.kernels.rules import Rules, is_float32
from zoplat_devices.kernels.tables import DTYPES, SUM, Jobs, Kernels, Sums, address, term

FACTOR_CACHE = 2  # draws whose factors are kept: a probe is used with either sign, then restored and applied
TERM_CACHE = 64  # draws whose terms are kept, a few kilobytes each
CHANGING = (Held, Accumulated)  # laws of arrays, whose entries may differ the next time
SUM_CACHE = 4  # directions whose sums on all blocks are kept while blocks are formed one by one


class FusedBackend(Backend):
    """A backend whose updates are drawn, scaled and added in registers by fused kernels.

    A law is fused if it has factors or can be traced (`laws.py`), as those can that compute every entry alike from a
    few draws. Any other law is filled tile by tile and added by the same kernel. The arithmetic is that of `Backend`,
    bit for bit.

    Args:
        kernels: of the device that holds the weights.
        empty, mapped, release, near: as in `Backend`.
    """

    def __init__(
        self,
        kernels: Kernels,
        empty: Callable[[tuple[int, ...], str], Any],
        mapped: Callable[[tuple[int, ...], str], Any] | None = None,
        release: Callable[[Any], None] = lambda array: None,
        near: Callable[[Any], Any] = lambda array: array,
    ) -> None:
        super().__init__(FusedNoise(kernels, empty), empty, mapped, release, near)
        self.kernels, self.reads_at_once = kernels, kernels.reads_at_once
        self._factors = Factors(kernels, empty)
        self._drawn: OrderedDict[Draw, Drawn] = OrderedDict()
        self._plans: dict[tuple[bytes, int], Plan] = {}
        self._cuts: dict[tuple[tuple[int, int, int], ...], Cut] = {}
        self._gathered: dict[tuple[tuple[int, int, int], ...], Gathered] = {}
        self._rules = Rules()
        self._sums_cache: OrderedDict[int, tuple[Direction, Sums]] = OrderedDict()

    @property
    def name(self) -> str:
        return type(self.kernels).__name__

    @property
    def keeps_places(self) -> bool:
        return self.kernels.queues

    def attach(self, blocks: Sequence[Block], rounding: Rounding) -> None:
        super().attach(blocks, rounding)
        self._index = {block.name: index for index, block in enumerate(blocks)}
        self._all_indices = np.arange(len(blocks))

    @property
    def scratch_bytes(self) -> int:
        gathered = sum(made.bytes for made in self._gathered.values())
        gathered += self.kernels.table_bytes
        return super().scratch_bytes + gathered + sum(drawn.bytes for drawn in self._drawn.values())

    def form(self, block: Block, direction: Direction, target: Any) -> None:
        index = self._index[block.name]
        is_copy = block is not self.blocks[index]
        if is_copy or any(isinstance(draw.sampler, CHANGING) for draw, _ in direction):  # arrays may differ next time
            indices, line = np.array([index]), 0
            sums = self._sums(indices, direction)
        else:
            indices, line, sums = self._all_indices, index, self._cached_sums(direction)
        if sums.fused[line]:
            plan = self._plan(indices, block if is_copy else None)
            self.kernels.run(plan.out_of_place, sums, origin=address(target), subset=plan.of_line(line))
        else:
            self._tile_by_tile(block, 1.0, direction, target)

    def points(self, directions: Sequence[Direction]) -> Points:
        return FusedPoints(self, directions)

    def add_product(self, total: Any, column: Any, row: Any) -> None:
        total.addcmul_(column, row) if hasattr(total, "addcmul_") else super().add_product(total, column, row)

    def draw_factors(
        self, draw: Draw, blocks: Sequence[Block], u: Mapping[str, Any], vt: Mapping[str, Any] | None
    ) -> None:
        found = [traced_factors(draw.sampler, Tile(block, 0, block.shape[0]), draw.key) for block in blocks]
        pairs = [pair for pair in found if pair is not None]
        if len(pairs) < len(blocks):
            super().draw_factors(draw, blocks, u, vt)
            return
        asked = [(of_u[1], u[block.name]) for block, (of_u, _) in zip(blocks, pairs, strict=True)]
        turned = []
        if vt is not None:
            for block, (_, (shape, fill)) in zip(blocks, pairs, strict=True):
                turned.append((vt[block.name], self.empty(shape, "float32")))
                asked.append((fill, turned[-1][1]))
        self._factors.fill(asked)
        for array, v in turned:
            array[:] = v.T

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Any:
        terms = [*direction]
        if any(is_for_one_tile(draw.sampler, tile) for draw, _ in terms):
            return super().entries(terms, tile, purpose)
        sums = self._sums_on(terms, tile.block)
        if not sums.fused[0]:
            return super().entries(terms, tile, purpose)
        out = self.scratch(tile, purpose)
        self.kernels.run(scratch_jobs(tile, out, out, SUM), sums)
        return out

    def gathered(self, direction: Direction, tiles: Sequence[Tile], may_wait: bool) -> Any:
        sums = self.sums(tiles, direction)
        if not sums.fused.all():
            if self.kernels.queue:
                self.kernels.queue.finish(f"{tiles[0].block.name} is written tile by tile")
            return super().gathered(direction, tiles, may_wait)
        name = tuple((self._index[tile.block.name], tile.start, tile.stop) for tile in tiles)
        if name not in self._gathered:
            self._gathered = {name: Gathered(tiles, self.empty)}
        gathered = self._gathered[name]
        (self.kernels.move if may_wait else self.kernels.run)(gathered.jobs, sums)
        return gathered.whole

    def then(self, name: Hashable, action: Callable[[], None]) -> None:
        if self.kernels.queue is None:
            action()
        else:
            self.kernels.queue.add(name, lambda _: action())

    def updated(self, tile: Tile, update: Update) -> Any:
        theta, (factor, direction) = self.rounding.theta_of(tile.block), update.on(tile.block)
        sums = self._sums_on([*direction], tile.block)
        if not sums.fused[0] or not is_float32(theta):
            return super().updated(tile, update)
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
        for left in self._rules.run(self, [block], kernel, update, direction, buffers, drift):
            super().sweep(left, kernel, update, direction, buffers, drift)

    def sweep_all(
        self,
        blocks: Iterable[tuple[Block, Update]],
        kernel: Kernel,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        if not self.kernels.prefers_few_calls:
            super().sweep_all(blocks, kernel, direction, buffers, drift)
            return
        alike: dict[Any, tuple[Update, list[Block]]] = {}
        for block, update in blocks:
            name = block.decays, id(update), tuple(block.name in buffer.arrays for buffer in buffers)
            alike.setdefault(name, (update, []))[1].append(block)
        for update, some in alike.values():
            for left in self._rules.run(self, some, kernel, update, direction, buffers, drift):
                super().sweep(left, kernel, update, direction, buffers, drift)

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        if update.is_uniform:
            self._pass(blocks, 1.0, update.undecayed)
        else:
            self._pass([block for block in blocks if block.decays], update.factor, update.decayed)
            self._pass([block for block in blocks if not block.decays], 1.0, update.undecayed)
        for block in [block for block in blocks if has_master(block, self.rounding)]:
            self.then(("publish", block.name), partial(self.rounding.publish, block))

    def prepare(self, direction: Direction) -> bool:
        queue = self.kernels.queue
        if queue is None or any(isinstance(draw.sampler, CHANGING) for draw, _ in direction):
            return False
        sums = self._cached_sums(direction)
        if not sums.fused.all():
            return False
        self.kernels.send_queued(sums, then=partial(self._cache_sums, direction, sums))
        return True

    def cut(self, tiles: Sequence[Tile]) -> Cut:
        """The jobs that write some tiles; kept for single tiles and whole blocks, which are formed again and again."""
        name = tuple((self._index[tile.block.name], tile.start, tile.stop) for tile in tiles)
        if name in self._cuts:
            return self._cuts[name]
        cut = Cut(tiles, self.rounding)
        if len(tiles) == 1 or all(tile.size == tile.block.size for tile in tiles):
            self._cuts[name] = cut
        return cut

    def sums(self, tiles: Sequence[Tile], direction: Direction) -> Sums:
        """The terms of a direction on the blocks of some tiles, a line each."""
        return self._sums(np.array([self._index[tile.block.name] for tile in tiles]), direction)

    def sums_of(self, blocks: Sequence[Block], direction: Direction) -> Sums:
        """The terms of a direction on some blocks, a line each, and behind them the streams of stochastic rounding."""
        indices = np.array([self._index[block.name] for block in blocks], int)
        sums = self._sums(indices, direction)
        if self.rounding.is_stochastic and len(blocks):
            streams = [self.rounding.stream(block) for block in blocks]
            sums.terms["keys"][np.arange(len(blocks)), sums.counts, 0] = streams
        return sums

    def plan_of(self, blocks: Sequence[Block]) -> Plan:
        """The jobs that cover some blocks, kept from pass to pass."""
        return self._plan(np.array([self._index[block.name] for block in blocks], int))

    def _pass(self, blocks: Sequence[Block], factor: float, direction: Direction) -> None:
        """W ← factor·W + direction on some blocks."""
        plan, sums = self.plan_of(blocks), self.sums_of(blocks, direction)
        changes = sums.counts > 0 if factor == 1.0 else np.ones(len(blocks), bool)
        self.kernels.move(plan.on(changes & sums.fused), sums, factor, self.rounding.is_stochastic)
        rest = np.flatnonzero(changes & ~sums.fused)
        if len(rest) and self.kernels.queue:
            self.kernels.queue.finish(f"{blocks[int(rest[0])].name} is written tile by tile")
        for line in rest:
            self._tile_by_tile(blocks[int(line)], factor, direction)

    def _tile_by_tile(self, block: Block, factor: float, direction: Direction, target: Any = None) -> None:
        """Write factor·θ + direction on one block, in place or to a target, from entries that are formed in scratch."""
        is_stochastic = self.rounding.is_stochastic and target is None
        sums = Sums(1, 2)
        if is_stochastic:
            sums.terms["keys"][0, 1, 0] = self.rounding.stream(block)
        for tile in block.tiles():
            entries = self.entries(direction, tile)
            start = tile.start * (block.size // block.shape[0])
            sums.terms[0, 0] = term("values", coefficient=1.0, u=address(entries) - 4 * start)[0]
            sums.counts[0] = 1
            rows = jobs_on(block, self.rounding, start, start + tile.size, ENTRIES)
            if target is not None:
                rows = jobs_to(rows, block, self.rounding, address(target))
            sums.uploaded = None
            self.kernels.run(Jobs(rows), sums, factor, is_stochastic=is_stochastic)

    def _sums_on(self, terms: Sequence[tuple[Draw, float]], block: Block) -> Sums:
        """The terms of a direction on one block, a single line."""
        return self._sums(np.array([self._index[block.name]]), terms)

    def _sums(self, indices: np.ndarray, direction: Direction | Sequence[tuple[Draw, float]]) -> Sums:
        """The terms of a direction on some blocks, a line each, with room for the stream of stochastic rounding."""
        sums = Sums(len(indices), len(direction) + self.rounding.is_stochastic)
        for draw, c in direction:
            lines, drawn = self._within(draw.part, indices), self._terms_of(draw._replace(part=None))
            sums.add(lines, *drawn.on(indices[lines]), c)
            sums.owners.append(drawn)
        return sums

    def _within(self, part: Part | None, indices: np.ndarray) -> np.ndarray:
        """Positions of those blocks that belong to a part."""
        if part is None:
            return np.arange(len(indices))
        return np.flatnonzero([self.blocks[index] in part for index in indices])

    def _cached_sums(self, direction: Direction) -> Sums:
        """The terms of a direction on all blocks, kept until the blocks are formed."""
        if id(direction) not in self._sums_cache:
            self._cache_sums(direction, self._sums(self._all_indices, direction))
        return self._sums_cache[id(direction)][1]

    def _cache_sums(self, direction: Direction, sums: Sums) -> None:
        self._sums_cache[id(direction)] = direction, sums
        self._sums_cache.move_to_end(id(direction))
        if len(self._sums_cache) > SUM_CACHE:
            self._sums_cache.popitem(last=False)

    def _plan(self, indices: np.ndarray, copy: Block | None = None) -> Plan:
        name = indices.tobytes(), address(copy.array) if copy else 0
        if name not in self._plans:
            self._plans[name] = Plan([copy] if copy else [self.blocks[index] for index in indices], self.rounding)
        return self._plans[name]

    def _terms_of(self, draw: Draw) -> Drawn:
        """The terms of one draw, kept for the next few passes, except those of a buffer, which would stay in memory."""
        if isinstance(draw.sampler, CHANGING):
            return Drawn(self.blocks, self.noise, draw)
        if draw not in self._drawn:
            self._evict()
            together = self._factors if self.kernels.prefers_few_calls else None
            self._drawn[draw] = Drawn(self.blocks, self.noise, draw, together)
        self._drawn.move_to_end(draw)
        return self._drawn[draw]

    def _evict(self) -> None:
        """Evict the oldest draws from the caches, to make room for one more."""
        with_factors = [draw for draw, drawn in self._drawn.items() if drawn.factor_arrays]
        for draw in with_factors[: max(0, len(with_factors) - FACTOR_CACHE + 1)]:
            del self._drawn[draw]
            self._sums_cache.clear()
        while len(self._drawn) >= TERM_CACHE:
            self._drawn.popitem(last=False)


class FusedPoints(Points):
    """Points that are formed by one launch of a fused kernel."""

    def __init__(self, backend: FusedBackend, directions: Sequence[Direction]) -> None:
        super().__init__(backend, directions)
        self._fused_backend = backend
        self._sums_cache: dict[tuple[str, ...], Sums] = {}

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Any) -> None:
        cut, n = self._fused_backend.cut(tiles), len(self.directions)
        sums = self._sums(tiles)
        jobs = cut.jobs(n, tuple(chosen))
        fused = sums.fused.reshape(len(tiles), n)[:, list(chosen)]
        if not fused.all():
            jobs = Jobs(jobs.rows[sums.fused[jobs.rows["line"]]])
        self._fused_backend.kernels.run(jobs, sums, origin=address(target))
        for k, i in np.argwhere(~fused):
            part = target[i : i + 1, cut.begins[k] : cut.begins[k] + tiles[k].size]
            super().write([tiles[k]], [chosen[i]], part)

    def _sums(self, tiles: Sequence[Tile]) -> Sums:
        """The terms of all directions on the blocks of some tiles: a line for each direction, tile after tile."""
        name = tuple(tile.block.name for tile in tiles)
        if name not in self._sums_cache:
            self._sums_cache[name] = Sums.interleaved(
                [self._fused_backend.sums(tiles, direction) for direction in self.directions]
            )
        return self._sums_cache[name]
