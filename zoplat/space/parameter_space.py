"""The trainable weights θ as a vector space.

Longer than other files because it is the whole public face of θ for algorithms, rules and devices: some forty methods
of a few lines each. The work is done in lazy.py, backend.py, rounding.py, reductions.py, buffers.py and drift.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Part, Tile
from zoplat.core.direction import ZERO, Direction, Draw
from zoplat.core.errors import NonFinite, ZoplatError
from zoplat.core.noise import Key, Noise
from zoplat.core.sampler import Sampler
from zoplat.space.backend import Backend, Kernel, Points
from zoplat.space.buffers import Buffers, MakeArray, write
from zoplat.space.drift import DriftMeter
from zoplat.space.lazy import LazyWeights, Phase
from zoplat.space.packed import CodesRounding, check_codes, check_law, check_probe, has_codes
from zoplat.space.reductions import Reductions
from zoplat.space.rounding import NARROW, Rounding, RoundingName, rounding_named
from zoplat.space.side_terms import SideTerm, SideTerms

Restore: TypeAlias = Literal["in-place", "exact"]
Score: TypeAlias = "Callable[..., Any]"
Keep: TypeAlias = Literal["largest", "smallest"]


class ParameterSpace:
    """θ, and the arrays that hold it or a perturbation of it.

    Args:
        blocks: the trainable arrays, each storage once, in registration order.
        backend: performs updates on them.
        restore: "in-place" writes perturbations into the arrays and subtracts them again; "exact" leaves the arrays at
            θ, and the device forms the perturbed weights of a layer while it runs.
        rounding: how results become 16-bit weights; no effect on wider ones. "nearest"; "stochastic", up or down at
            random with the result as expected value; "master", to nearest from a float32 copy that is θ. The latter two
            need exact restore.
        seed: of stochastic rounding.
        weights_in_files: whether the arrays are mapped from files that do not all fit in memory; each block is then
            released once a pass has written it.
        state_in_files: whether all buffers are mapped from files.

    Attributes:
        perturbation: under exact restore, what forward passes add to the arrays.

    Raises:
        ZoplatError: 16-bit weights are to be rounded otherwise than to nearest, under in-place restore.
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
        self._has_codes = has_codes(blocks)
        (check_codes if self._has_codes else partial(_check_rounding, blocks))(restore, rounding)
        self.blocks = tuple(blocks)
        self.restore, self.rounding = restore, rounding
        self.perturbation: Direction = ZERO
        self._backend = backend
        empty, mapped = (lambda block: backend.of(block).empty), (lambda block: backend.of(block).mapped)
        self._buffers = Buffers(self.blocks, empty, mapped, backend.release, state_in_files)
        backend.attach(self.blocks, self._rounded(rounding, empty, seed))
        self._drift = DriftMeter(self.blocks, backend)
        self._weights = LazyWeights(self.blocks, backend, self._buffers, weights_in_files, self._drift.catch_up)
        self._reductions = Reductions(backend)
        self._side_terms = SideTerms(backend, self._weights)
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
        """The blocks grouped by label, in the order of the first block of each group."""
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
        """The blocks of each layer, in order; a block that belongs to no layer is a part by itself."""
        return self.parts_by(lambda block: block.name if block.layer is None else block.layer)

    def size_of(self, part: Part) -> int:
        """Number of scalars in a part."""
        return sum(block.size for block in self.blocks if block in part)

    @property
    def passes_over_weights(self) -> float:
        """Passes over the weights so far; one over some of the blocks counts for their share of the weights."""
        return self._weights.passes

    def time_phases(self, phase: Phase) -> None:
        """Enter phase("move") around all writing of weights, phase("rule") around sweeps and reductions."""
        self._weights.phase = phase

    # Updates and perturbations

    def reset(self) -> None:
        """Take what the arrays hold now as θ; for weights written from outside, such as a checkpoint's.

        Master weights keep the entries that still round to what the arrays hold.
        """
        self.perturbation = ZERO
        self._weights.stands_at(ZERO)
        self._backend.rounding.resynchronise()
        self._drift.restart()

    def add(self, direction: Direction, decay: float = 0.0) -> None:
        """θ ← (1 − decay)·θ + direction, with decay on the blocks that decay; performed by the next pass."""
        if not (direction.is_finite and math.isfinite(decay)):
            raise NonFinite("The update has a coefficient that is not finite.")
        self._weights.add(direction, decay)
        self._drift.add(direction, decay)

    def decay(self, share: float) -> None:
        """θ ← (1 − share)·θ on the blocks that decay. Remembered, not performed."""
        self.add(ZERO, share)

    def at(self, direction: Direction) -> None:
        """Make the weights that a forward pass sees equal θ + direction; one pass, together with pending updates."""
        if not direction.is_finite:
            raise NonFinite("The perturbation has a coefficient that is not finite.")
        self._check_probes(direction)
        if self.restore == "exact":
            self.settle()
            self.perturbation = direction
        else:
            self._weights.move_to(direction)

    def perturb(self, direction: Direction) -> None:
        """Under exact restore, make forward passes see θ + direction without settling; the caller settles blocks."""
        self._check_probes(direction)
        self.perturbation = direction

    def settle(self) -> None:
        """Make the arrays hold θ; one pass, or none if they do already."""
        self.perturbation = ZERO
        self._weights.move_to(ZERO)

    def settle_block(self, block: Block) -> None:
        """Make the array of one block hold θ; `settle` does the other blocks, as part of the same pass."""
        self._weights.settle_block(block)

    def low_rank_points(self, directions: Sequence[Direction]) -> list[Direction] | None:
        """For each θ + d, what a forward pass is to add to what the arrays hold, all of it of low rank on matrices.

        The arrays of matrices need not hold θ then: updates that share V are added up in factors, and are part of what
        is returned. All other blocks hold θ. None, and nothing is done, where a draw of a direction or of the pending
        update has no factors.
        """
        if not all(direction.is_finite for direction in directions):
            return None
        self._check_probes(*directions)
        self.perturbation = ZERO
        return self._side_terms.points(directions)

    def side_terms(self, points: Sequence[Direction]) -> list[SideTerm] | None:
        """What `low_rank_points` returned, in factors for all matrices; None where a draw has none."""
        return self._side_terms.of(points)

    # Sweeps: the only other way to write weights and buffers

    def sweep(self, kernel: Kernel, direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None) -> None:
        """Bring every tile to θ and run kernel(theta, g, *buffers) on it, in one pass; on the blocks of a part only.

        The arguments have the shape of the tile: theta (float32, stored afterwards), g the direction's entries, and the
        rows of buffers, changed in place; None for a buffer that does not cover the block. A kernel must treat every
        entry alike and have no other effects: a device may call it once, with proxies, and trace it.
        """
        blocks = ((block, self._weights.pending) for block in self._swept(on))
        self._backend.sweep_all(blocks, kernel, direction, buffers, self._drift)

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
                factors = self._backend.factors_of(direction, tile) or (None, None)
                with (
                    self._backend.writable_theta(tile, self._weights.pending, self._drift) as theta,
                    self._backend.writable_rows(tile, buffers) as rows,
                ):
                    kernel(theta, *factors, *rows, tile)

    def renew(self, kernel: Callable[..., None], *buffers: Buffer) -> None:
        """Run kernel(tile, *arrays) once on each block that buffers cover: for state that is not computed row by row.

        The tile is the whole block, and the arrays are those of the buffers, whole, changed in place. Weights are
        neither read nor written; but an update that reads one of the buffers is performed first.
        """
        if self._weights.pending.reads(buffers):
            self.settle()
        with self._weights.phase("rule"):
            for block in self._weights.visited(Part(frozenset(buffers[0].arrays))):
                tile = Tile(block, 0, block.shape[0])
                with self._backend.writable_rows(tile, buffers) as arrays:
                    kernel(tile, *arrays)

    def write(self, buffer: Buffer, rows: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Write numbers, by block, to the first rows of the arrays of a buffer; as `renew` does."""
        self.renew(lambda tile, array: write(array, rows[tile.block.name]), buffer)

    def mark(
        self, mask: Buffer, bounds: Mapping[str, float], score: Score, *buffers: Buffer, keep: Keep = "largest"
    ) -> None:
        """Set `mask` to 1 where score(theta, *buffers) ≥ the bound of its block, else to 0; one pass.

        With keep = "smallest", to 1 where score ≤ bound.
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
        """Set `mask` to 1 on a share of each block's entries, those of largest score(theta, *buffers) ≥ 0; else to 0.

        With keep = "smallest", on those of smallest score. Entries that tie with the last one selected are selected
        too. The quantile is taken 10⁻⁹ off the share, so that a share that is a whole number of entries selects that
        number whichever way it is rounded.
        """
        within = 1 - share + 1e-9 if keep == "largest" else share - 1e-9
        self.mark(mask, self.quantiles(within, score, *buffers), score, *buffers, keep=keep)

    def displacement(self, anchor: Buffer, into: Buffer) -> None:
        """Write θ − anchor to another buffer, on the blocks that both cover."""

        def subtract(theta: Array, zero: Array, into: Array, anchor: Array) -> None:
            into -= anchor

        self.copy_to(into)
        self.sweep(subtract, ZERO, into, anchor, on=Part(frozenset(into.arrays)))

    # Reductions over θ and over directions

    def reduce(
        self, count: Callable[..., Any], direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """For each block count(theta, g, *buffers) summed over its tiles; arguments as in `sweep`."""
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
        """Euclidean norm of a direction over all blocks; its random numbers are generated once, no weight is read."""
        return self._reductions.norm(self.blocks, direction)

    def length(self, sampler: Sampler, key: Key) -> float:
        """Euclidean norm of what a law draws under a key, without the law's `scale`."""
        return self.norm(Direction.of(sampler, key))

    def dot(self, one: Direction, other: Direction, on: Part | None = None) -> dict[str, float]:
        """⟨one, other⟩ by block; no weight is read."""
        return self._reductions.dot((block for block in self.blocks if on is None or block in on), one, other)

    @property
    def drift(self) -> float:
        """‖W − θ‖ / ‖θ‖ on a sample of rows: W as stored (master weights where there are some), θ tracked in float64.

        Settles first.
        """
        self.settle()
        return self._drift.measure()

    @property
    def changed(self) -> float:
        """Share of entries whose stored number has changed since the last mark, or since the start; settles first.

        On the sample of the drift meter: about the first 2,048 entries of some eight blocks.
        """
        self.settle()
        return self._drift.changed()

    @property
    def is_lost(self) -> bool:
        """Whether the updates so far are too small to change a weight, on the sample of the drift meter.

        Small ones add up where rounding is stochastic or has master weights, so there θ counts in float32.
        """
        return self._drift.is_lost("" if self.rounding == "nearest" else "float32")

    def mark_changes(self) -> None:
        """Make `changed` compare with the weights of now; settles first."""
        self.settle()
        self._drift.mark()

    def pin(self) -> None:
        """Remember θ of the sample of the drift meter, for `moved`; settles nothing."""
        self._drift.pin()

    @property
    def moved(self) -> dict[str, tuple[float, float]]:
        """By block, root mean squares on the drift meter's sample: how far θ moved since `pin`, and of θ itself."""
        return self._drift.moved()

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
        rows: int | None = None,
        dtype: str | None = None,
        mapped: bool = False,
    ) -> Buffer:
        """Allocate state, entered in the memory ledger as `owner`.

        Args:
            owner: method and name, such as "hizoo/h".
            fill: first value of every entry.
            on: the blocks that have one; all when None.
            columns: of the arrays of matrices, where they are not those of the matrix.
            rows: of the arrays of matrices, or all of the matrix where it has fewer; for `renew` alone, and never
                mapped.
            dtype: "uint8" for masks; by default float32, and float64 for float64 weights.
            mapped: map the arrays from files, outside of the process's own memory.
        """
        return self._buffers.allocate(owner, fill, on, columns, rows, dtype, mapped)

    def broadcast_row(self, owner: str, rows: Mapping[str, Sequence[float]]) -> Buffer:
        """A buffer of one row per matrix, broadcast over all of its rows: an argument for `select`, not for state."""
        return self._buffers.broadcast_row(owner, rows)

    def snapshot(self, owner: str, on: Part | None = None) -> Buffer:
        """A copy of θ on a part as it is now, in a mapped buffer."""
        copy = self.buffer(owner, on=on, mapped=True)
        self.copy_to(copy)
        return copy

    def copy_to(self, buffer: Buffer) -> None:
        """Write θ as it is now into a buffer, on the blocks that the buffer covers."""
        self.settle()
        for block in self._weights.visited():
            if block.name in buffer.arrays:
                self._backend.copy_to(block, buffer.arrays[block.name])

    def release(self, block: Block) -> None:
        """Evict a block and its rows of buffers from memory, as far as they are mapped from files."""
        self._weights.release(block)

    # Entries and factors of directions

    @property
    def noise(self) -> Noise:
        """The device's random numbers."""
        return self._backend.noise

    def draw(self, sampler: Sampler, key: Key) -> Direction:
        """The vector z ~ sampler, named by `key`."""
        return sampler.scale(self, key) * Direction.of(sampler, key)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile) -> Array:
        """The direction's entries on a tile, float32 in scratch that the next call reuses."""
        return self._backend.entries(direction, tile)

    def is_low_rank(self, law: Sampler) -> bool:
        """Whether a law draws factors for matrices; False where there is no matrix."""
        return bool(self._side_terms.law(law).matrices)

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        """Write θ + direction on one block to `target`, of its shape and dtype; the arrays hold θ and stay.

        A block of the same name with a copy of θ is read in place of that of the space.
        """
        self._backend.form(block, direction, target)

    def prepare_perturbation(self) -> bool:
        """Queue what `form` needs of the host at the perturbation; whether that is all it needs."""
        return self._backend.prepare(self.perturbation)

    def points(self, directions: Sequence[Direction]) -> Points:
        """What the arrays hold + d for each direction d, to be formed a few tiles at a time."""
        self._check_probes(*directions)
        return self._backend.points(directions)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of working arrays held between calls."""
        return self._backend.scratch_bytes + self.noise.bytes

    @property
    def factor_bytes(self) -> int:
        """Bytes of factors of low-rank directions and updates held between calls."""
        return self._side_terms.bytes

    @property
    def backend_name(self) -> str:
        """Name of what updates the weights, for the record of a run."""
        return self._backend.name

    def check_law(self, law: Sampler) -> None:
        """Raise ZoplatError where the weights are codes, which draws of a law can't perturb."""
        if self._has_codes:
            check_law(law)

    def _check_probes(self, *directions: Direction) -> None:
        for direction in directions if self._has_codes else ():
            check_probe(direction)

    def _rounded(self, name: RoundingName, empty: Callable[[Block], MakeArray], seed: int) -> Rounding:
        """How results become stored weights."""
        if self._has_codes:
            return CodesRounding(self.blocks, self._backend.noise, self._buffers, empty(self.blocks[0]), seed)
        return rounding_named(name, self.blocks, self._backend.noise, self._buffers, empty, seed)

    def _swept(self, on: Part | None) -> Iterator[Block]:
        self.perturbation = ZERO
        return self._weights.swept(on)


def _check_rounding(blocks: Sequence[Block], restore: Restore, rounding: RoundingName) -> None:
    narrow = [block.dtype for block in blocks if block.dtype in NARROW]
    if narrow and rounding != "nearest" and restore != "exact":
        raise ZoplatError(
            f"rounding={rounding} writes {narrow[0]} weights only when an update changes them; "
            f"restore={restore} writes every perturbation into them and subtracts it again, which rounds too. "
            "Use -o device.restore=exact, or -o device.rounding=nearest."
        )
