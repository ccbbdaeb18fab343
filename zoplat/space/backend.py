"""Backends perform updates on arrays. `Backend` does it tile by tile in scratch memory, and is the definition.

A fused backend of a device draws, scales and adds in registers. It must give the same bits, or its noise needs another
name. In one file because `Points` is made of a backend, and a backend makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import TILE, Block, Buffer, Tile
from zoplat.core.composed import Composed
from zoplat.core.direction import Direction, Draw
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Key, Noise
from zoplat.core.row_signs import RowSigns
from zoplat.core.sampler import Sampler
from zoplat.space.buffers import MakeArray
from zoplat.space.drift import DriftMeter
from zoplat.space.rounding import Rounding
from zoplat.space.update import Update

Kernel: TypeAlias = "Callable[..., None]"
"""The function that a sweep calls on every tile: (theta, g, *rows of buffers) → None, changing them in place."""


class Backend:
    """Allocates arrays, forms directions, and updates weights.

    Args:
        noise: random numbers by address.
        empty: (shape, dtype) → a new array of the device.
        mapped: the same for arrays that are mapped from files; None where a device can't.
        release: is called with a mapped array that is not needed for a while.
        near: a part of a buffer → the same numbers where the weights are; itself where it is there already.

    Attributes:
        blocks: the weights that it updates, once it is attached.
        rounding: how results become stored weights, once it is attached.
        reads_at_once: about how many entries a reduction reads at a time.
    """

    reads_at_once = TILE
    blocks: Sequence[Block]
    rounding: Rounding

    def __init__(
        self,
        noise: Noise,
        empty: MakeArray,
        mapped: MakeArray | None = None,
        release: Callable[[Array], None] = lambda array: None,
        near: Callable[[Array], Array] = lambda array: array,
    ) -> None:
        self.noise, self.empty, self.mapped, self.release, self.near = noise, empty, mapped, release, near
        self._scratch: dict[str, Array] = {}
        self._signs: tuple[Any, tuple[Array, Array, list[int]]] | None = None

    def attach(self, blocks: Sequence[Block], rounding: Rounding) -> None:
        """Take charge of some weights; their space calls this once."""
        self.blocks, self.rounding = blocks, rounding

    def of(self, block: Block) -> Backend:
        """The backend of the device that has a block: itself, unless blocks lie on several devices."""
        return self

    def at_home(self, array: Array) -> Array:
        """The same numbers where `empty` makes arrays; where blocks lie on several devices, that is the first one."""
        return array

    @property
    def name(self) -> str:
        """Name of what updates the weights, for the record of a run."""
        return type(self.noise).__name__

    def visiting_order(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """The order in which a sweep visits blocks; no number depends on it."""
        return blocks

    @property
    def scratch_bytes(self) -> int:
        """Bytes of working arrays held between calls."""
        return sum(int(array.nbytes) for array in self._scratch.values())

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        """Perform an update on some blocks: W ← factor·W + s, s as in `entries`, rounded to the block's dtype."""
        for block in blocks:
            for tile in block.tiles():
                self.rounding.store(tile, self.updated(tile, update))

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        """Write θ + direction on one block to `target`, of its shape and dtype; the arrays hold θ and stay.

        A block of the same name with a copy of θ is read in place of that of the space.
        """
        for tile in block.tiles():
            theta = self.scratch(tile, "theta")
            self.rounding.probed(tile, theta)
            theta += self.entries(direction, tile)
            self.rounding.write(tile, theta, target)

    def copy_to(self, block: Block, target: Array) -> None:
        """Write θ on one block, which its array holds, to an array of its shape."""
        for tile in block.tiles():
            self.rounding.read(tile, tile.of(target))

    @property
    def keeps_places(self) -> bool:
        """Whether forward passes are recorded, so that what they read is to stand at one place from step to step."""
        return False

    def prepare(self, direction: Direction) -> bool:
        """Queue what `form` needs of the host at a direction, where work is queued; whether that is all it needs."""
        return False

    def points(self, directions: Sequence[Direction]) -> Points:
        """What the arrays hold + d for each direction d, to be formed a few tiles at a time."""
        return Points(self, directions)

    def sweep(
        self,
        block: Block,
        kernel: Kernel,
        update: Update,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        """Perform an update on every tile of a block and run kernel(theta, g, *buffers) on it, in one pass.

        Args:
            block: to be swept.
            kernel: changes theta and buffers in place.
            update: takes the array to θ.
            direction: its entries are g.
            buffers: their rows of the tile follow.
            drift: is to follow what the kernel changes.
        """
        for tile in block.tiles():
            with self.writable_theta(tile, update, drift) as theta, self.writable_rows(tile, buffers) as rows:
                kernel(theta, self.entries(direction, tile, "gradient"), *rows)

    def sweep_all(
        self,
        blocks: Iterable[tuple[Block, Update]],
        kernel: Kernel,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        """Sweep some blocks, each with the update that takes it to θ; a backend may take them all before it begins."""
        for block, update in blocks:
            self.sweep(block, kernel, update, direction, buffers, drift)

    @contextmanager
    def writable_theta(self, tile: Tile, update: Update, drift: DriftMeter) -> Iterator[Array]:
        """θ on a tile, float32 in scratch; what it holds when the context ends is stored."""
        theta = self.updated(tile, update)
        before = drift.before(tile, theta)
        yield theta
        drift.after(tile, theta, before)
        self.rounding.store(tile, theta)

    @contextmanager
    def writable_rows(self, tile: Tile, buffers: Sequence[Buffer]) -> Iterator[list[Array | None]]:
        """Each buffer's rows of a tile where the weights are; what they hold when the context ends is stored."""
        stored = tile.rows_of(buffers)
        rows = self.all_near(stored)
        yield rows
        for kept, row in zip(stored, rows, strict=True):
            if kept is not None and kept is not row:
                kept[:] = row

    def all_near(self, rows: Sequence[Array | None]) -> list[Array | None]:
        """`near` of some buffers' rows, to be read; None where a buffer does not cover the block."""
        return [None if row is None else self.near(row) for row in rows]

    def updated(self, tile: Tile, update: Update) -> Array:
        """W as an update leaves it on a tile, float32 in scratch; the array is not written."""
        theta = self.wide(tile)
        factor, direction = update.on(tile.block)
        if factor != 1.0:
            theta *= factor
        if direction.touches(tile.block):
            theta += self.entries(direction, tile)
        return theta

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Array:
        """The direction's entries on a tile, float32 in scratch: valid until the next call with this purpose.

        Defined term by term: s₁ = c₁z₁, sₖ = sₖ₋₁ + cₖzₖ, each product and sum rounded to float32; z times its
        scales before, one after the other, b^−½ as 1/√b. Successive draws that differ by signs alone are one term U·m,
        with the sum m of their ±c formed in the same way, where `RowSigns.is_summed`.
        """
        total, begun = self.scratch(tile, purpose), False
        there = [(draw, c) for draw, c in direction if draw.part is None or tile.block in draw.part]
        for shared, some in groupby(there, key=lambda term: _shared(term[0], tile)):
            for terms in [[*some]] if shared else [[term] for term in some]:
                z = self.scratch(tile, "term") if begun else total
                if len(terms) == 1:
                    self._write_term(z, *terms[0], tile)
                else:
                    self._write_terms(z, terms, tile)
                if begun:
                    total += z
                begun = True
        if not begun:
            total[:] = 0.0
        return total

    def gathered(self, direction: Direction, tiles: Sequence[Tile], may_wait: bool) -> Array:
        """The same for several tiles, one after the other in one array of one dimension; valid until the next call.

        Where work is queued, the array may be filled when the queue is performed; not if `may_wait` is false.
        """
        ends = [*accumulate((tile.size for tile in tiles), initial=0)]
        whole = self.empty((ends[-1],), "float64")
        for tile, begin, end in zip(tiles, ends, ends[1:], strict=False):
            whole[begin:end] = self.entries(direction, tile).reshape(-1)
        return whole

    def then(self, name: Hashable, action: Callable[[], None]) -> None:
        """Do something after all that was asked before; where work is queued, in the queue.

        Args:
            name: all that the work depends on.
            action: does it, with arrays that stay where they are.
        """
        action()

    def draw_factors(
        self, draw: Draw, blocks: Sequence[Block], u: Mapping[str, Array], vt: Mapping[str, Array] | None
    ) -> None:
        """Write U and Vᵀ of a draw on some matrices to arrays by name, (rows, r) and (r, columns); Vᵀ if asked."""
        for block in blocks:
            factors = draw.sampler.factors(Tile(block, 0, block.shape[0]), draw.key, self.noise)
            if factors is None:
                raise ZoplatError(f"A draw of {draw.sampler!r} has no factors U, V on '{block.name}'.")
            u[block.name][:] = factors[0]
            if vt is not None:
                vt[block.name][:] = factors[1].T

    def factors_of(self, direction: Direction, tile: Tile) -> tuple[Array, Array] | None:
        """(U, V) of a whole direction on a tile, coefficients in U; None for the zero direction.

        Successive terms that share V are added up, others are concatenated.

        Raises:
            ZoplatError: a term has no factors there.
        """
        found: list[tuple[Array, Array]] = []
        for draw, c in direction:
            factors = draw.sampler.factors(tile, draw.key, self.noise)
            if factors is None or draw.scales or (draw.part is not None and tile.block not in draw.part):
                raise ZoplatError(f"A direction of {draw.sampler!r} has no factors U, V on '{tile.block.name}'.")
            u, v = c * factors[0], factors[1]
            if found and found[-1][1].shape == v.shape and bool((found[-1][1] == v).all()):
                found[-1] = (found[-1][0] + u, v)
            else:
                found.append((u, v))
        if len(found) < 2:
            return found[0] if found else None
        return self._concatenated([u for u, _ in found]), self._concatenated([v for _, v in found])

    def wide(self, tile: Tile, purpose: str = "theta") -> Array:
        """What the arrays hold on a tile, float32 in scratch."""
        theta = self.scratch(tile, purpose)
        self.rounding.read(tile, theta)
        return theta

    def scratch(self, tile: Tile, purpose: str) -> Array:
        """A working array of the tile's shape; its memory is reused by the next call with the same purpose."""
        wide = tile.block.wide_dtype
        held = self._scratch.get(f"{purpose}/{wide}")
        if held is None or held.shape[0] < tile.size:
            held = self._scratch[f"{purpose}/{wide}"] = self.empty((tile.size,), wide)
        return held[: tile.size].reshape(tile.shape)

    def _write_term(self, out: Array, draw: Draw, c: float, tile: Tile) -> None:
        """Write c times a draw and its scales."""
        if isinstance(draw.sampler, Composed):
            out[:] = draw.sampler.combine(lambda direction: self.entries(direction, tile, "composed"))
        else:
            self._fill(draw.sampler, out, tile, draw.key)
        for buffer, power in draw.scales:
            scale = self.near(tile.of(buffer.arrays[tile.block.name]))
            out *= scale if power == 1.0 else 1.0 / scale**0.5 if power == -0.5 else scale**power
        out *= c

    def _write_terms(self, out: Array, terms: Sequence[tuple[Draw, float]], tile: Tile) -> None:
        """Write a sum of draws that differ by signs alone."""
        law: RowSigns = terms[0][0].sampler  # type: ignore[assignment]  # `_shared` has seen to that
        r, s, lines = self._signs_of(tile.block, law, [draw.key for draw, _ in terms])
        m = self.scratch(tile, "signs")
        m[:] = 0.0
        for (_, c), line in zip(terms, lines, strict=True):
            self.add_product(m, c * r[line, tile.start : tile.stop, None], s[line : line + 1])
        law.base.fill(out, tile, law.shared(terms[0][0].key), self.noise)
        out *= m

    def _signs_of(self, block: Block, law: RowSigns, keys: list[Key]) -> tuple[Array, Array, list[int]]:
        """Signs of some draws on a matrix, kept from tile to tile."""
        name = block.name, law, keys
        if self._signs is None or self._signs[0] != name:
            self._signs = name, law.table(block, keys, self.noise)
        return self._signs[1]

    def add_product(self, total: Array, column: Array, row: Array) -> None:
        """Add the product of a column and a row to a matrix, product and sum each rounded."""
        total += column * row

    def _fill(self, sampler: Sampler, out: Array, tile: Tile, key: Key) -> None:
        factors = sampler.factors(tile, key, self.noise)
        if factors is None:
            sampler.fill(out, tile, key, self.noise)
            return
        u, v = factors
        out[:] = u[:, :1] * v[:, 0]
        for k in range(1, u.shape[1]):
            out += u[:, k : k + 1] * v[:, k]

    def _concatenated(self, arrays: Sequence[Array]) -> Array:
        whole = self.empty((arrays[0].shape[0], sum(array.shape[1] for array in arrays)), "float32")
        start = 0
        for array in arrays:
            whole[:, start : start + array.shape[1]] = array
            start += array.shape[1]
        return whole


def _shared(draw: Draw, tile: Tile) -> tuple[Sampler, Key] | None:
    """What names U, if draws that share it are formed as one term on a tile."""
    law = draw.sampler
    if not isinstance(law, RowSigns) or draw.scales or not law.is_summed(tile):
        return None
    return law, law.shared(draw.key)


class Points:
    """What the arrays hold + d for several directions d, formed in other memory a few tiles at a time.

    Args:
        backend: of the arrays, which must not be written while this is in use.
        directions: numbered from 0.
    """

    def __init__(self, backend: Backend, directions: Sequence[Direction]) -> None:
        self._backend = backend
        self.directions = directions

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Array) -> None:
        """Write some tiles, one after the other, to a row of `target` for each of the chosen directions.

        Args:
            tiles: of blocks of one dtype.
            chosen: numbers of directions.
            target: (len(chosen), entries of all tiles), of that dtype; the numbers are those of `form`.
        """
        for i, number in enumerate(chosen):
            begin = 0
            for whole in tiles:
                for tile in whole.tiles():
                    theta = self._backend.wide(tile)
                    theta += self._backend.entries(self.directions[number], tile)
                    target[i][begin : begin + tile.size] = theta.reshape(-1)
                    begin += tile.size
