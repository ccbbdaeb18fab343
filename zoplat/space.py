"""The trainable weights θ as a vector space, and where the real arrays stand relative to it.

The space is lazy. It remembers θ = keep·W + shift, where W is what the arrays hold and `shift` is a sum of
names. `add` changes only what is remembered; `at` performs the difference between where the arrays stand and
where they should be, so that the restore of the last probe, the update, the decay and the next probe become
one pass with merged coefficients: fewer passes, fewer roundings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zoplat.direction import ZERO, Direction, Key
from zoplat.errors import NonFinite

if TYPE_CHECKING:
    from zoplat.sampler import Noise, Sampler

    Array: TypeAlias = Any

TILE = 1 << 18
"""Entries of a tile, about: whole rows, at least one. Small enough for a core's own cache."""

Restore: TypeAlias = Literal["in-place", "exact"]


@dataclass(frozen=True, eq=False)
class Block:
    """A named weight array.

    Attributes:
        name: unique, stable; part of every noise address.
        array: the device's own array, edited in place; (n,) or (rows, columns), contiguous.
        dtype: "float32", "bfloat16", "float16" or "float64".
        layer: index of the layer it belongs to, or None.
        decays: whether weight decay applies; by structure (matrices do, vectors don't), never by spelling.
    """

    name: str
    array: Array
    dtype: str = "float32"
    layer: int | None = None
    decays: bool = True

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(n,) or (rows, columns)."""
        return tuple(self.array.shape)

    @cached_property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def tiles(self, entries: int = TILE) -> Iterator[Tile]:
        """The block cut into runs of whole rows of about `entries` entries."""
        rows = self.shape[0]
        stride = max(1, entries // (self.size // rows))
        for start in range(0, rows, stride):
            yield Tile(self, start, min(rows, start + stride))


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows `start` to `stop` of a block; how a block is cut never changes a number."""

    block: Block
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the piece."""
        return (self.stop - self.start, *self.block.shape[1:])

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether the block has rows and columns."""
        return len(self.block.shape) == 2

    def of(self, array: Array) -> Array:
        """The same rows of an array laid out like the block."""
        return array[self.start : self.stop]


@dataclass(frozen=True, eq=False)
class Buffer:
    """One more float32 array per block, such as a momentum; booked in the ledger under its owner."""

    owner: str
    arrays: dict[str, Array]

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return sum(int(array.nbytes) for array in self.arrays.values())


Kernel: TypeAlias = "Callable[..., None]"


class ParameterSpace:
    """θ, and where the real weights stand relative to it.

    Args:
        blocks: the trainable arrays, each storage once, in registration order.
        noise: the device's random numbers.
        empty: (shape, dtype) → a new array of the device.
        restore: "in-place" writes probes into the arrays and takes them back; "exact" leaves the arrays at θ
            and has the device form the probed weights while a layer runs.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        noise: Noise,
        empty: Callable[[tuple[int, ...], str], Array],
        restore: Restore = "in-place",
    ) -> None:
        self.blocks = tuple(blocks)
        self.noise = noise
        self.restore = restore
        self.buffers: list[Buffer] = []
        self.passes = 0
        self.overlay: Direction = ZERO
        self.watch: Callable[[str], AbstractContextManager[Any]] = lambda phase: nullcontext()
        self._empty = empty
        self._scratch: dict[str, Array] = {}
        self.reset()

    @property
    def size(self) -> int:
        """Number of trainable scalars d."""
        return sum(block.size for block in self.blocks)

    def reset(self) -> None:
        """Take what the arrays hold now as θ; for weights written from outside, such as a checkpoint's."""
        self._keep, self._shift, self._plain, self.overlay = 1.0, ZERO, ZERO, ZERO
        self._drift = _DriftMeter(self)

    def add(self, direction: Direction, decay: float = 0.0) -> None:
        """θ ← (1 − decay)·θ + direction, decay on the blocks that decay. Remembered, not performed."""
        if not (direction.is_finite and math.isfinite(decay)):
            raise NonFinite("The update has a coefficient that is not finite.")
        self._keep *= 1 - decay
        self._shift = (1 - decay) * self._shift + direction
        self._plain = self._plain + direction
        self._drift.add(direction, decay)

    def at(self, direction: Direction) -> None:
        """Make the weights that a forward pass sees hold θ + direction. One pass, remembered moves included."""
        if not direction.is_finite:
            raise NonFinite("The probe has a coefficient that is not finite.")
        if self.restore == "exact":
            self.settle()
            self.overlay = direction
        else:
            self._go(direction)

    def settle(self) -> None:
        """Make the arrays hold θ. One pass, or none."""
        self.overlay = ZERO
        self._go(ZERO)

    def sweep(self, kernel: Kernel, direction: Direction = ZERO, *buffers: Buffer) -> None:
        """Settle, then run kernel(theta, g, *buffers) on every tile.

        Arrays of one tile's shape: theta (float32, written back after), g the direction's entries, and the
        buffers' rows, changed in place.
        """
        self.settle()
        with self.watch("rule"):
            self.passes += 1
            for block in self.blocks:
                for tile in block.tiles():
                    theta, g = self._wide(tile, "theta"), self.entries(direction, tile)
                    before = self._drift.before(tile, theta)
                    kernel(theta, g, *(tile.of(buffer.arrays[block.name]) for buffer in buffers))
                    tile.of(block.array)[:] = theta
                    self._drift.after(tile, before)

    def buffer(self, owner: str, fill: float = 0.0) -> Buffer:
        """Allocate float32 state, one entry per weight, entered in the memory ledger as `owner`."""
        arrays = {}
        for block in self.blocks:
            arrays[block.name] = self._empty(block.shape, "float32")
            arrays[block.name][:] = fill
        self.buffers.append(Buffer(owner, arrays))
        return self.buffers[-1]

    def draw(self, sampler: Sampler, key: Key) -> Direction:
        """The vector z ~ sampler, named by `key`."""
        return sampler.scale(self, key) * Direction.of(sampler, key)

    def entries(self, direction: Direction, tile: Tile) -> Array:
        """The direction's entries on a tile, float32 in scratch: valid until the next call.

        Defined term by term: s₁ = c₁z₁, sₖ = sₖ₋₁ + cₖzₖ, each product and sum rounded to float32.
        """
        total = self._space_for(tile, "sum")
        if not direction:
            total[:] = 0.0
        for index, ((sampler, key), c) in enumerate(direction):
            z = self._space_for(tile, "term") if index else total
            self._fill(sampler, z, tile, key)
            z *= c
            if index:
                total += z
        return total

    def norm(self, direction: Direction) -> float:
        """Euclidean length of a direction over all blocks; one pass of noise, no weight is read."""
        total = 0.0
        for block in self.blocks:
            for tile in block.tiles():
                wide = self._empty((tile.size,), "float64")
                wide[:] = self.entries(direction, tile).reshape(-1)
                total += float(wide @ wide)
        mantissa, exponent = math.frexp(math.sqrt(total))
        return math.ldexp(round(mantissa * 2**24), exponent - 24)  # as float32, so that cuts leave no trace

    @property
    def drift(self) -> float:
        """‖W − θ‖ / ‖θ‖ on a sample of rows, θ kept in float64 beside the arrays; settles first."""
        self.settle()
        return self._drift.measure()

    @property
    def scratch_bytes(self) -> int:
        """Bytes of working arrays held between calls."""
        return sum(int(array.nbytes) for array in self._scratch.values())

    def _go(self, direction: Direction) -> None:
        decayed, plain = self._shift + direction, self._plain + direction
        if decayed or plain or self._keep != 1.0:
            with self.watch("move"):
                self.passes += 1
                self._move(self._keep, decayed, plain)
        self._keep, self._shift, self._plain = 1.0, -direction, -direction

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        """Write θ + direction on one block to `target`, the arrays untouched; θ must be settled.

        `target` has the block's shape and dtype.
        """
        for tile in block.tiles():
            theta = self._wide(tile, "theta")
            theta += self.entries(direction, tile)
            tile.of(target)[:] = theta

    def _move(self, keep: float, decayed: Direction, plain: Direction) -> None:
        """W ← keep·W + decayed on the blocks that decay, W ← W + plain on the others.

        A device may replace this method and `form` by something that draws and adds in registers; entries are
        W' = keep·W + s with s as in `entries`, rounded once more to the block's dtype.
        """
        for block in self.blocks:
            direction, factor = (decayed, keep) if block.decays else (plain, 1.0)
            for tile in block.tiles():
                theta = self._wide(tile, "theta")
                if factor != 1.0:
                    theta *= factor
                theta += self.entries(direction, tile)
                tile.of(block.array)[:] = theta

    def _fill(self, sampler: Sampler, out: Array, tile: Tile, key: Key) -> None:
        factors = sampler.factors(tile, key, self.noise)
        if factors is None:
            sampler.fill(out, tile, key, self.noise)
            return
        u, v = factors
        out[:] = u[:, :1] * v[:, 0]
        for k in range(1, u.shape[1]):
            out += u[:, k : k + 1] * v[:, k]

    def _wide(self, tile: Tile, purpose: str) -> Array:
        theta = self._space_for(tile, purpose)
        theta[:] = tile.of(tile.block.array)
        return theta

    def _space_for(self, tile: Tile, purpose: str) -> Array:
        wide = "float64" if tile.block.dtype == "float64" else "float32"
        name = f"{purpose}/{wide}"
        held = self._scratch.get(name)
        if held is None or held.shape[0] < tile.size:
            held = self._scratch[name] = self._empty((tile.size,), wide)
        return held[: tile.size].reshape(tile.shape)


class _DriftMeter:
    """θ in float64 on a few rows of a few blocks, moved by every update and by no probe."""

    BLOCKS, ENTRIES = 8, 2048

    def __init__(self, space: ParameterSpace) -> None:
        self.space = space
        self.shadows: dict[str, tuple[Tile, Array]] = {}
        for block in space.blocks[:: max(1, len(space.blocks) // self.BLOCKS)]:
            tile = next(block.tiles(self.ENTRIES))
            shadow = space._empty(tile.shape, "float64")
            shadow[:] = tile.of(block.array)
            self.shadows[block.name] = (tile, shadow)

    def add(self, direction: Direction, decay: float) -> None:
        for tile, shadow in self.shadows.values():
            if tile.block.decays and decay:
                shadow *= 1 - decay
            shadow += self.space.entries(direction, tile)

    def before(self, tile: Tile, theta: Array) -> Array | None:
        known = self.shadows.get(tile.block.name)
        return None if known is None or tile.start else 1.0 * theta[: known[0].stop]

    def after(self, tile: Tile, before: Array | None) -> None:
        if before is not None:
            sample, shadow = self.shadows[tile.block.name]
            shadow += sample.of(tile.block.array) - before

    def measure(self) -> float:
        off = norm = 0.0
        for tile, shadow in self.shadows.values():
            difference = (tile.of(tile.block.array) - shadow).reshape(-1)
            off += float(difference @ difference)
            norm += float(shadow.reshape(-1) @ shadow.reshape(-1))
        return math.sqrt(off / norm) if norm else 0.0
