"""The trainable weights θ as a vector space: what algorithms, rules and devices ask of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Part, Tile
from zoplat.core.direction import ZERO, Direction, Draw
from zoplat.core.errors import NonFinite, ZoplatError
from zoplat.core.noise import Key, Noise
from zoplat.core.sampler import Sampler
from zoplat.space.backend import Backend, Kernel, Points
from zoplat.space.buffers import Buffers
from zoplat.space.drift import DriftMeter
from zoplat.space.lazy import LazyWeights, Phase
from zoplat.space.reductions import Reductions
from zoplat.space.rounding import NARROW, RoundingName, rounding_by

MAX_DEFERRED_TERMS = 4
"""Terms of low rank that are performed together: enough to make a pass rare, few enough to keep their factors."""
Restore: TypeAlias = Literal["in-place", "exact"]
Score: TypeAlias = "Callable[..., Any]"
Keep: TypeAlias = Literal["largest", "smallest"]


class ParameterSpace:
    """θ, and where the real weights stand relative to it.

    Args:
        blocks: the trainable arrays, each storage once, in registration order.
        backend: moves them.
        restore: "in-place" writes probes into the arrays and takes them back; "exact" leaves the arrays at θ
            and has the device form the probed weights while a layer runs.
        rounding: how results become 16-bit weights; no effect on wider ones. "nearest"; "stochastic", up or down by
            chance, so that the expected value is exact; "master", to nearest from a float32 copy that is θ. The
            latter two need exact restore.
        seed: of stochastic rounding.
        weights_in_files: whether the blocks' arrays are files that memory has no room for all at once; passes then go
            from block to block.
        state_in_files: whether all buffers are files.

    Attributes:
        perturbation: what forward passes see beside the arrays, under exact restore.

    Raises:
        ZoplatError: 16-bit weights are to be rounded otherwise than to nearest, and probes are written into them.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        backend: Backend,
        restore: Restore = "in-place",
        rounding: RoundingName = "nearest",
        seed: int = 0,
        weights_in_files: bool = False,
        state_in_files: bool = False,
    ) -> None:
        _check_rounding(blocks, restore, rounding)
        self.blocks = tuple(blocks)
        self.restore, self.rounding = restore, rounding
        self.perturbation: Direction = ZERO
        self._backend = backend
        self._buffers = Buffers(self.blocks, backend.empty, backend.mapped, backend.release, state_in_files)
        backend.attach(
            self.blocks, rounding_by(rounding, self.blocks, backend.noise, self._buffers, backend.empty, seed)
        )
        self._weights = LazyWeights(self.blocks, backend, self._buffers, weights_in_files)
        self._reductions = Reductions(backend)
        self.reset()

    @property
    def size(self) -> int:
        """Number of trainable scalars d."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def everything(self) -> Part:
        """All blocks."""
        return self.part(lambda block: True)

    def part(self, test: Callable[[Block], bool]) -> Part:
        """The blocks for which test(block) holds."""
        return Part(frozenset(block.name for block in self.blocks if test(block)))

    def parts_by(self, label: Callable[[Block], Any]) -> list[Part]:
        """The blocks with one label together, in the order in which their first blocks are registered."""
        names: dict[Any, list[str]] = {}
        for block in self.blocks:
            names.setdefault(label(block), []).append(block.name)
        return [Part(frozenset(group)) for group in names.values()]

    def named(self, pattern: str, setting: str) -> Part:
        """The blocks in whose names a regular expression finds something.

        Args:
            pattern: the expression.
            setting: how the user chose them, such as "by=layer"; for the message.

        Raises:
            ZoplatError: it finds nothing.
        """
        part = self.part(lambda block: re.search(pattern, block.name) is not None)
        if not part:
            raise ZoplatError(
                f"{setting} finds nothing in the names of the trained weights, such as {self.blocks[0].name}. "
                f"Use a regular expression that finds some  (-o {setting.partition('=')[0]}=…)"
            )
        return part

    def layers(self) -> list[Part]:
        """The blocks of each layer, in order; a block outside of all layers is a part by itself."""
        return self.parts_by(lambda block: block.name if block.layer is None else block.layer)

    def size_of(self, part: Part) -> int:
        """Number of scalars in a part."""
        return sum(block.size for block in self.blocks if block in part)

    @property
    def passes_over_weights(self) -> float:
        """Passes over θ so far; one over some of the blocks counts for their share of the weights."""
        return self._weights.passes

    def time_phases(self, phase: Phase) -> None:
        """Enter phase("move") and phase("rule") around the work that belongs to them."""
        self._weights.phase = phase

    # Where the arrays stand

    def reset(self) -> None:
        """Take what the arrays hold now as θ; for weights written from outside, such as a checkpoint's.

        A master copy keeps the entries that still round to what the arrays hold.
        """
        self.perturbation = ZERO
        self._weights.stands_at(ZERO)
        self._backend.rounding.resynchronise()
        self._drift = DriftMeter(self.blocks, self._weights.theta_of, self.entries, self._backend.empty)

    def add(self, direction: Direction, decay: float = 0.0) -> None:
        """θ ← (1 − decay)·θ + direction, decay on the blocks that decay. Remembered, not performed."""
        if not (direction.is_finite and math.isfinite(decay)):
            raise NonFinite("The update has a coefficient that is not finite.")
        self._weights.add(direction, decay)
        self._drift.add(direction, decay)

    def decay(self, share: float) -> None:
        """θ ← (1 − share)·θ on the blocks that decay. Remembered, not performed."""
        self.add(ZERO, share)

    def at(self, direction: Direction) -> None:
        """Make the weights that a forward pass sees hold θ + direction. One pass, remembered moves included."""
        if not direction.is_finite:
            raise NonFinite("The probe has a coefficient that is not finite.")
        if self.restore == "exact":
            self.settle()
            self.perturbation = direction
        else:
            self._weights.go(direction)

    def perturb(self, direction: Direction) -> None:
        """Have forward passes see θ + direction, and leave the arrays to `settle_block`; under exact restore only."""
        self.perturbation = direction

    def settle(self) -> None:
        """Make the arrays hold θ. One pass, or none."""
        self.perturbation = ZERO
        self._weights.go(ZERO)

    def settle_block(self, block: Block) -> None:
        """Make the array of one block hold θ, and leave it to `settle` to do the rest of that pass."""
        self._weights.settle_block(block)

    def deferred_update(self) -> Direction:
        """What the arrays lack of θ, where points around it are formed beside them: a short sum of low rank, or else
        nothing, once settled.

        A move of low rank costs a pass over the weights as it is performed, and next to nothing beside a product.
        """
        pending, is_narrow = self._weights.pending, any(block.dtype in NARROW for block in self.blocks)
        can_wait = pending.is_uniform and not self._weights.is_between and not is_narrow
        if can_wait and len(pending.plain) <= MAX_DEFERRED_TERMS and self._has_factors(pending.plain):
            return pending.plain
        self.settle()
        return ZERO

    # Sweeps: the only other way to write weights and buffers

    def sweep(self, kernel: Kernel, direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None) -> None:
        """Bring every tile to θ and run kernel(theta, g, *buffers) on it, in one pass; on the blocks of a part only.

        Arrays of one tile's shape: theta (float32, written back after), g the direction's entries, and the
        buffers' rows, changed in place; None for a buffer that does not cover the block. A kernel treats every entry
        alike and does nothing else: a device may run it once, on stand-ins.
        """
        for block in self._swept(on):
            self._backend.sweep(block, kernel, self._weights.pending, direction, buffers, self._drift)

    def sweep_factors(
        self, kernel: Kernel, vectors: Kernel, direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None
    ) -> None:
        """A sweep whose kernel gets matrices in factors: kernel(theta, u, v, *buffers, tile), with g = u vᵀ.

        Args:
            kernel: for matrices; u of shape (rows, k) and v of shape (columns, k) hold all terms of the direction,
                coefficients in u, and are None where it has no terms.
            vectors: for all other blocks, as in `sweep`.
            direction: of draws that have factors.
            buffers: as in `sweep`; those of matrices may have other columns.
            on: the blocks that are swept; all when None.

        Raises:
            ZoplatError: a term has no factors on a matrix.
        """
        for block in self._swept(on):
            if len(block.shape) != 2:
                self._backend.sweep(block, vectors, self._weights.pending, direction, buffers, self._drift)
                continue
            for tile in block.tiles():
                with self._backend.rewritten(tile, self._weights.pending, self._drift) as theta:
                    factors = self._backend.factors_of(direction, tile) or (None, None)
                    kernel(theta, *factors, *tile.rows_of(buffers), tile)

    def mark(
        self, mask: Buffer, bounds: Mapping[str, float], score: Score, *buffers: Buffer, keep: Keep = "largest"
    ) -> None:
        """Set `mask` to 1 where score(theta, *buffers) reaches the bound of its block, to 0 elsewhere; one pass.

        With keep = "smallest", where it does not exceed the bound.
        """

        def marking(bound: float) -> Kernel:
            def kernel(theta: Array, g: Array, mask: Array, *rows: Array | None) -> None:
                scores = score(theta, *rows)
                mask[:] = scores >= bound if keep == "largest" else scores <= bound

            return kernel

        for block in self._swept(None):
            kernel = marking(bounds[block.name])
            self._backend.sweep(block, kernel, self._weights.pending, ZERO, (mask, *buffers), self._drift)

    def select(self, mask: Buffer, share: float, score: Score, *buffers: Buffer, keep: Keep = "largest") -> None:
        """Set `mask` to 1 on the share of each block's entries whose score(theta, *buffers) ≥ 0 is largest.

        Entries that score the same as the last one to be kept are kept as well. A share that is a whole number of
        entries stays that number however it is rounded; the least of the largest is the first one above a share of
        1 − `share`, not the last one within it.
        """
        within = 1 - share + 1e-9 if keep == "largest" else share - 1e-9
        self.mark(mask, self.quantiles(within, score, *buffers), score, *buffers, keep=keep)

    def displacement(self, anchor: Buffer, into: Buffer) -> None:
        """Write θ − anchor to another buffer, on the blocks that both cover."""

        def subtract(theta: Array, zero: Array, into: Array, anchor: Array) -> None:
            into -= anchor

        self.copy_to(into)
        self.sweep(subtract, ZERO, into, anchor, on=Part(frozenset(into.arrays)))

    # Numbers about θ and about directions

    def reduce(
        self, count: Callable[..., Any], direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """One number a block: count(theta, g, *buffers) summed over its tiles; arguments as in `sweep`."""
        self.settle()
        with self._weights.phase("rule"):
            return self._reductions.sums(self._weights.visited(on), count, direction, buffers)

    def quantiles(
        self, share: float, score: Callable[..., Any], *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """For each block the least t with score(theta, *buffers) ≤ t on a share of its entries; scores are ≥ 0."""
        self.settle()
        return self._reductions.quantiles(self._weights.visited(on), share, score, buffers)

    def norm(self, direction: Direction) -> float:
        """Euclidean length of a direction over all blocks; one pass of random numbers, no weight is read."""
        return self._reductions.norm(self.blocks, direction)

    def length(self, sampler: Sampler, key: Key) -> float:
        """Euclidean length of what a law draws under a key, before its `scale`."""
        return self.norm(Direction.of(sampler, key))

    def dot(self, one: Direction, other: Direction, on: Part | None = None) -> dict[str, float]:
        """⟨one, other⟩ by block; no weight is read."""
        return self._reductions.dot((block for block in self.blocks if on is None or block in on), one, other)

    @property
    def drift(self) -> float:
        """‖W − θ‖ / ‖θ‖ on a sample of rows, θ kept in float64 beside the weights W (a master copy where there is one).

        Settles first.
        """
        self.settle()
        return self._drift.measure()

    @property
    def changed(self) -> float:
        """Share of the entries whose stored number is another than at the last mark, or at the start; settles first.

        On the rows that the drift meter samples: the first 2,048 entries or so of some eight blocks.
        """
        self.settle()
        return self._drift.changed()

    def mark_changes(self) -> None:
        """Let `changed` count from here; settles first."""
        self.settle()
        self._drift.mark()

    # Buffers

    @property
    def buffers(self) -> list[Buffer]:
        """All state that was allocated, in order."""
        return self._buffers.all

    def buffer(
        self,
        owner: str,
        fill: float = 0.0,
        on: Part | None = None,
        columns: int | None = None,
        dtype: str | None = None,
        mapped: bool = False,
    ) -> Buffer:
        """Allocate state, entered in the memory ledger as `owner`.

        Args:
            owner: method and name, such as "hizoo/h".
            fill: first value of every entry.
            on: the blocks that have one; all when None.
            columns: of the arrays of matrices, where they are not those of the matrix.
            dtype: "uint8" for marks; by default float32, float64 beside float64 weights.
            mapped: keep the arrays in files, outside of the process's own memory.
        """
        return self._buffers.allocate(owner, fill, on, columns, dtype, mapped)

    def broadcast_row(self, owner: str, rows: Mapping[str, Sequence[float]]) -> Buffer:
        """One row per matrix, broadcast over all of its rows: for `sweep` and `select`, not for state."""
        return self._buffers.broadcast_row(owner, rows)

    def snapshot(self, owner: str, on: Part | None = None) -> Buffer:
        """θ on a part as it is now, in files: a mapped buffer."""
        copy = self.buffer(owner, on=on, mapped=True)
        self.copy_to(copy)
        return copy

    def copy_to(self, buffer: Buffer) -> None:
        """Write θ, as it is now, into a buffer, on the blocks that it covers."""
        self.settle()
        for block in self._weights.visited():
            if block.name in buffer.arrays:
                buffer.arrays[block.name][:] = self._weights.theta_of(block)

    def release(self, block: Block) -> None:
        """Release the memory of a block and of its rows of buffers, where that can be had back from a file."""
        self._weights.release(block)

    # Directions as numbers

    @property
    def noise(self) -> Noise:
        """The device's random numbers."""
        return self._backend.noise

    def draw(self, sampler: Sampler, key: Key) -> Direction:
        """The vector z ~ sampler, named by `key`."""
        return sampler.scale(self, key) * Direction.of(sampler, key)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile) -> Array:
        """The direction's entries on a tile, float32 in scratch: valid until the next call."""
        return self._backend.entries(direction, tile)

    def factors(self, draw: Draw, block: Block) -> tuple[Array, Array] | None:
        """(U, V) with z = U Vᵀ on a block; None where the draw has no factors or is scaled."""
        return self._backend.factors(draw, block)

    def is_low_rank(self, law: Sampler) -> bool:
        """Whether a law draws factors for matrices; False where there is no matrix."""
        matrix = next((block for block in self.blocks if len(block.shape) == 2), None)
        return matrix is not None and law.factors(Tile(matrix, 0, 1), Key(0, 0, 0), self.noise) is not None

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        """Write θ + direction on one block to `target`, of its shape and dtype; the arrays hold θ and stay."""
        self._backend.form(block, direction, target)

    def points(self, directions: Sequence[Direction]) -> Points:
        """What the arrays hold + d for several d, to be formed tile by tile."""
        return self._backend.points(directions)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of working arrays held between calls."""
        return self._backend.scratch_bytes

    @property
    def backend_name(self) -> str:
        """What moves the weights, for the record."""
        return self._backend.name

    def _swept(self, on: Part | None) -> Iterator[Block]:
        self.perturbation = ZERO
        return self._weights.swept(on)

    def _has_factors(self, direction: Direction) -> bool:
        """Whether all terms are of low rank on matrices."""
        return all(not draw.scales and self.is_low_rank(draw.sampler) for draw, _ in direction)


def _check_rounding(blocks: Sequence[Block], restore: Restore, rounding: RoundingName) -> None:
    narrow = [block.dtype for block in blocks if block.dtype in NARROW]
    if narrow and rounding != "nearest" and restore != "exact":
        raise ZoplatError(
            f"rounding={rounding} writes {narrow[0]} weights only when an update moves them; "
            f"restore={restore} writes every probe into them and takes it back, which rounds too. "
            "Use -o device.restore=exact, or -o device.rounding=nearest."
        )
