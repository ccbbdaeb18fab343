"""The trainable weights θ as a vector space, and where the real arrays stand relative to it.

The space is lazy. It remembers θ = keep·W + shift, where W is what the arrays hold and `shift` is a sum of
names. `add` changes only what is remembered; `at` performs the difference between where the arrays stand and
where they should be, so that the restore of the last probe, the update, the decay and the next probe become
one pass with merged coefficients: fewer passes, fewer roundings.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zoplat.blocks import Block, Buffer, Part, Tile
from zoplat.direction import ZERO, Direction, Draw, Key
from zoplat.drift import DriftMeter
from zoplat.errors import NonFinite, ZoplatError
from zoplat.rounding import NARROW, Rounding, round_by_chance

if TYPE_CHECKING:
    from zoplat.sampler import Noise, Sampler

    Array: TypeAlias = Any

PUT_OFF = 4
"""Terms of low rank that are performed together: enough to make a pass rare, few enough to keep their factors."""
Restore: TypeAlias = Literal["in-place", "exact"]


Kernel: TypeAlias = "Callable[..., None]"


class ParameterSpace:
    """θ, and where the real weights stand relative to it.

    Args:
        blocks: the trainable arrays, each storage once, in registration order.
        noise: the device's random numbers.
        empty: (shape, dtype) → a new array of the device.
        mapped: the same for arrays that live in a file; None where a device has none.
        restore: "in-place" writes probes into the arrays and takes them back; "exact" leaves the arrays at θ
            and has the device form the probed weights while a layer runs.
        rounding: how moves become 16-bit weights; no effect on wider ones. "nearest"; "stochastic", up or down by
            chance, so that the expected value is exact; "master", to nearest from a float32 copy that is θ. The
            latter two need exact restore.
        seed: of the chances.

    Attributes:
        let_go: is told of an array in a file that nobody needs for a while.
        weights_in_files: whether the blocks' arrays are files that memory has no room for all at once; passes then go
            from block to block.
        state_in_files: whether all buffers are files.

    Raises:
        ZoplatError: 16-bit weights are to be rounded otherwise than to nearest, and probes are written into them.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        noise: Noise,
        empty: Callable[[tuple[int, ...], str], Array],
        restore: Restore = "in-place",
        mapped: Callable[[tuple[int, ...], str], Array] | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        self.blocks = tuple(blocks)
        self.noise = noise
        self.restore = restore
        self.rounding = rounding
        self.buffers: list[Buffer] = []
        self.passes = 0.0
        self.overlay: Direction = ZERO
        self.watch: Callable[[str], AbstractContextManager[Any]] = lambda phase: nullcontext()
        self.let_go: Callable[[Array], None] = lambda array: None
        self.weights_in_files = self.state_in_files = False
        self._keep, self._shift, self._plain = 1.0, ZERO, ZERO
        self._settled: set[str] = set()
        self._empty = empty
        self._mapped = mapped
        self._scratch: dict[str, Array] = {}
        self._seed = seed
        self._set_up_rounding()
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

    def reset(self) -> None:
        """Take what the arrays hold now as θ; for weights written from outside, such as a checkpoint's.

        A master copy keeps the entries that still round to what the arrays hold.
        """
        self.overlay = ZERO
        self._stands_at(ZERO)
        self._renew_masters()
        self._drift = DriftMeter(self.blocks, self._theta_of, self.entries, self._empty)

    def add(self, direction: Direction, decay: float = 0.0) -> None:
        """θ ← (1 − decay)·θ + direction, decay on the blocks that decay. Remembered, not performed."""
        if not (direction.is_finite and math.isfinite(decay)):
            raise NonFinite("The update has a coefficient that is not finite.")
        if self._settled:
            self.settle()
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

    def put_off(self) -> Direction:
        """What the arrays lack of θ, where points around it are formed beside them: a short sum of low rank, or else
        nothing, once settled.

        A move of low rank costs a pass over the weights as it is performed, and next to nothing beside a product.
        """
        left, is_narrow = self._shift, any(block.dtype in NARROW for block in self.blocks)
        is_one_sum = self._keep == 1.0 and left == self._plain and not self._settled
        are_low = all(not draw.scales and self.is_low_rank(draw.sampler) for draw, _ in left)
        if is_one_sum and not is_narrow and len(left) <= PUT_OFF and are_low:
            return left
        self.settle()
        return ZERO

    def settle_block(self, block: Block) -> None:
        """Make the array of one block hold θ, and leave it to `settle` to do the rest of that pass."""
        if block.name in self._settled or not self._is_behind:
            return
        with self.watch("move"):
            if not self._settled:
                self._begin_pass(self._shift, self._plain)
            self._settled.add(block.name)
            if self._moves(block, self._shift, self._plain):
                self._move([block], self._keep, self._shift, self._plain)

    def leave(self, block: Block) -> None:
        """Let the memory of a block and of its rows of buffers go, where that can be had back from a file."""
        if self.weights_in_files:
            self.let_go(block.array)
        for buffer in self.buffers:
            if buffer.is_mapped and block.name in buffer.arrays:
                self.let_go(buffer.arrays[block.name])

    def sweep(
        self,
        kernel: Kernel,
        direction: Direction = ZERO,
        *buffers: Buffer,
        on: Part | None = None,
        factored: bool = False,
    ) -> None:
        """Bring every tile to θ and run kernel(theta, g, *buffers) on it, in one pass; on the blocks of a part only.

        Arrays of one tile's shape: theta (float32, written back after), g the direction's entries, and the
        buffers' rows, changed in place; None for a buffer that does not cover the block. With `factored` the
        kernel gets (U, V), g = U Vᵀ, in place of g where all terms have factors, and the tile as its last argument.
        A kernel treats every entry alike and does nothing else: a device may run it once, on stand-ins.
        """
        if on is not None or self._settled:
            self.settle()
        self.overlay = ZERO
        with self.watch("rule"):
            self.passes += self._share([block for block in self.blocks if on is None or block in on])
            self._begin_write()
            for block in self._visited(on):
                self._sweep(block, kernel, direction, buffers, factored)
        self._stands_at(ZERO)

    def _sweep(
        self, block: Block, kernel: Kernel, direction: Direction, buffers: Sequence[Buffer], factored: bool
    ) -> None:
        """A sweep on one block."""
        for tile in block.tiles():
            self._sweep_tile(tile, kernel, direction, buffers, factored)

    def _sweep_tile(
        self, tile: Tile, kernel: Kernel, direction: Direction, buffers: Sequence[Buffer], factored: bool = False
    ) -> None:
        theta = self._at_theta(tile)
        g = self._factors(direction, tile) if factored else None
        arguments = [self.entries(direction, tile, "gradient") if g is None else g, *_rows(buffers, tile)]
        before = self._drift.before(tile, theta)
        kernel(theta, *arguments, *((tile,) if factored else ()))
        self._drift.after(tile, theta, before)
        self._write(tile, theta)

    def reduce(
        self, count: Callable[..., Any], direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """One number a block: count(theta, g, *buffers) summed over its tiles; arguments as in `sweep`."""
        self.settle()
        totals = {}
        with self.watch("rule"):
            for block in self._visited(on):
                totals[block.name] = _as_float32(
                    sum(
                        float(
                            count(
                                self._wide(tile, "theta"),
                                self.entries(direction, tile, "gradient"),
                                *_rows(buffers, tile),
                            )
                        )
                        for tile in block.tiles()
                    )
                )
        return totals

    def quantiles(
        self, share: float, score: Callable[..., Array], *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """For each block the least t with score(theta, *buffers) ≤ t on a share of its entries; scores are ≥ 0."""
        self.settle()
        found = {}
        for block in self._visited(on):
            dtype = _wide_dtype(block)
            low, high = -1, 0x7F7FFFFF if dtype == "float32" else 0x7FEFFFFFFFFFFFFF  # ordered as the numbers are
            while high - low > 1:
                middle = (low + high) // 2
                below = 0
                for tile in block.tiles():
                    scores = score(self._wide(tile, "theta"), *_rows(buffers, tile))
                    below += int((scores <= _from_bits(middle, dtype)).sum())
                low, high = (low, middle) if below >= share * block.size else (middle, high)
            found[block.name] = _from_bits(high, dtype)
        return found

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
        mapped = mapped or self.state_in_files
        make = self._mapped if mapped else self._empty
        if make is None:
            raise ZoplatError(f"'{owner}' is to be mapped from a file, which this device can't do.")
        arrays = {}
        for block in self.blocks:
            if on is None or block in on:
                is_matrix = len(block.shape) == 2
                shape = (block.shape[0], columns) if columns and is_matrix else block.shape
                arrays[block.name] = make(shape, dtype or _wide_dtype(block))
                arrays[block.name][:] = fill
                if mapped:
                    self.let_go(arrays[block.name])
        self.buffers.append(Buffer(owner, arrays, mapped))
        return self.buffers[-1]

    def by_column(self, owner: str, numbers: Mapping[str, Sequence[float]]) -> Buffer:
        """A number for each column of some matrices, as one row that stands for all: for `sweep`, not for state."""
        arrays = {}
        for name, row in numbers.items():
            arrays[name] = self._empty((1, len(row)), "float32")
            for column, number in enumerate(row):
                arrays[name][0, column] = number
        return Buffer(owner, arrays)

    def snapshot(self, owner: str, on: Part | None = None) -> Buffer:
        """θ on a part as it is now, in files: a mapped buffer."""
        copy = self.buffer(owner, on=on, mapped=True)
        self.copy_to(copy)
        return copy

    def copy_to(self, buffer: Buffer) -> None:
        """Write θ, as it is now, into a buffer, on the blocks that it covers."""
        self.settle()
        for block in self._visited():
            if block.name in buffer.arrays:
                buffer.arrays[block.name][:] = self._theta_of(block)

    def draw(self, sampler: Sampler, key: Key) -> Direction:
        """The vector z ~ sampler, named by `key`."""
        return sampler.scale(self, key) * Direction.of(sampler, key)

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Array:
        """The direction's entries on a tile, float32 in scratch: valid until the next call with this purpose.

        Defined term by term: s₁ = c₁z₁, sₖ = sₖ₋₁ + cₖzₖ, each product and sum rounded to float32; z times its
        scales before, one after the other, b^−½ as 1/√b.
        """
        total, begun = self._space_for(tile, purpose), False
        for draw, c in direction:
            if draw.part is not None and tile.block not in draw.part:
                continue
            z = self._space_for(tile, "term") if begun else total
            self._fill(draw.sampler, z, tile, draw.key)
            for buffer, power in draw.scales:
                scale = tile.of(buffer.arrays[tile.block.name])
                z *= scale if power == 1.0 else 1.0 / scale**0.5 if power == -0.5 else scale**power
            z *= c
            if begun:
                total += z
            begun = True
        if not begun:
            total[:] = 0.0
        return total

    def factors(self, draw: Draw, block: Block) -> tuple[Array, Array] | None:
        """(U, V) with z = U Vᵀ on a block; None where the draw has no factors or is scaled."""
        return None if draw.scales else draw.sampler.factors(Tile(block, 0, block.shape[0]), draw.key, self.noise)

    def is_low_rank(self, law: Sampler) -> bool:
        """Whether a law draws factors for matrices; False where there is no matrix."""
        matrix = next((block for block in self.blocks if len(block.shape) == 2), None)
        return matrix is not None and law.factors(Tile(matrix, 0, 1), Key(0, 0, 0), self.noise) is not None

    def norm(self, direction: Direction) -> float:
        """Euclidean length of a direction over all blocks; one pass of noise, no weight is read."""
        total = 0.0
        for block in self.blocks:
            for tile in block.tiles():
                entries = self._exactly(direction, tile)
                total += float(entries @ entries)
        return _as_float32(math.sqrt(total))

    def dot(self, one: Direction, other: Direction, on: Part | None = None) -> dict[str, float]:
        """⟨one, other⟩ by block; no weight is read."""
        return {
            block.name: _as_float32(
                sum(float(self._exactly(one, tile) @ self._exactly(other, tile)) for tile in block.tiles())
            )
            for block in self.blocks
            if on is None or block in on
        }

    def _exactly(self, direction: Direction, tile: Tile) -> Array:
        """The direction's entries on a tile as one float64 vector of its own."""
        wide = self._empty((tile.size,), "float64")
        wide[:] = self.entries(direction, tile).reshape(-1)
        return wide

    @property
    def drift(self) -> float:
        """‖W − θ‖ / ‖θ‖ on a sample of rows, θ kept in float64 beside the weights W (a master copy where there is one).

        Settles first.
        """
        self.settle()
        return self._drift.measure()

    @property
    def changed(self) -> float:
        """Share of the entries whose stored number is another than at the last `mark`, or at the start; settles first.

        On the rows that the drift meter samples: the first 2,048 entries or so of some eight blocks.
        """
        self.settle()
        return self._drift.changed()

    def mark(self) -> None:
        """Let `changed` count from here; settles first."""
        self.settle()
        self._drift.mark()

    @property
    def scratch_bytes(self) -> int:
        """Bytes of working arrays held between calls."""
        return sum(int(array.nbytes) for array in self._scratch.values())

    def _go(self, direction: Direction) -> None:
        if self._settled and direction:
            self._go(ZERO)
        decayed, plain = self._shift + direction, self._plain + direction
        if decayed or plain or self._keep != 1.0:
            with self.watch("move"):
                if not self._settled:
                    self._begin_pass(decayed, plain)
                blocks = [b for b in self.blocks if b.name not in self._settled and self._moves(b, decayed, plain)]
                for some in [[block] for block in blocks] if self.weights_in_files else [blocks]:
                    self._move(some, self._keep, decayed, plain)
                    for block in some:
                        self.leave(block)
        self._stands_at(direction)

    def _stands_at(self, direction: Direction) -> None:
        """Note that the arrays hold θ + direction."""
        self._keep, self._shift, self._plain = 1.0, -direction, -direction
        self._settled = set()

    @property
    def _is_behind(self) -> bool:
        """Whether there is something that `settle` has to perform."""
        return bool(self._shift or self._plain) or self._keep != 1.0

    def _begin_pass(self, decayed: Direction, plain: Direction) -> None:
        """Count a pass that moves θ, and let it have its own chances."""
        self.passes += self._share([block for block in self.blocks if self._moves(block, decayed, plain)])
        self._begin_write()

    def _visited(self, on: Part | None = None) -> Iterator[Block]:
        """The blocks of a part, one after the other; each is left before the next one comes."""
        for block in self.blocks:
            if on is None or block in on:
                yield block
                self.leave(block)

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        """Write θ + direction on one block to `target`, the arrays untouched; θ must be settled.

        `target` has the block's shape and dtype.
        """
        for tile in block.tiles():
            theta = self._wide(tile, "theta")
            theta += self.entries(direction, tile)
            tile.of(target)[:] = theta

    def points(self, directions: Sequence[Direction]) -> Points:
        """θ + d for several d, to be formed tile by tile."""
        return Points(self, directions)

    def _move(self, blocks: Sequence[Block], keep: float, decayed: Direction, plain: Direction) -> None:
        """W ← keep·W + decayed on those of some blocks that decay, W ← W + plain on the others of them.

        A device may replace this method, `form` and `points` by something that draws and adds in registers;
        entries are W' = keep·W + s with s as in `entries`, rounded once more to the block's dtype as `_write` does.
        """
        for block in blocks:
            for tile in block.tiles():
                self._write(tile, self._moved(tile, keep, decayed, plain))

    def _set_up_rounding(self) -> None:
        """Allocate what the rounding keeps."""
        narrow = [block for block in self.blocks if block.dtype in NARROW]
        self._by_chance = self.rounding == "stochastic" and bool(narrow)
        self._masters: Mapping[str, Array] = {}
        if self.rounding == "nearest" or not narrow:
            return
        if self.restore != "exact":
            raise ZoplatError(
                f"rounding={self.rounding} writes {narrow[0].dtype} weights only when an update moves them; "
                f"restore={self.restore} writes every probe into them and takes it back, which rounds too. "
                "Use -o device.restore=exact, or -o device.rounding=nearest."
            )
        if self._by_chance:
            count = self._empty((1,), "int64")
            count[:] = 0
            self._writes = Buffer("writes, counted for rounding", {narrow[0].name: count})
            self.buffers.append(self._writes)
            self._integer = self._empty((1,), "int32").dtype
        else:
            self._masters = self.buffer("master weights", on=Part(frozenset(block.name for block in narrow))).arrays
            for block in narrow:
                self._masters[block.name][:] = block.array

    def _renew_masters(self) -> None:
        """Take from the arrays what their masters do not round to."""
        for block in self.blocks:
            if block.name in self._masters:
                for tile in block.tiles():
                    master, held = tile.of(self._masters[block.name]), tile.of(block.array)
                    rounded, wide = self._empty(tile.shape, block.dtype), self._space_for(tile, "theta")
                    rounded[:], wide[:] = master, held
                    other = rounded != held
                    master[other] = wide[other]

    def _begin_write(self) -> None:
        """A pass that writes θ begins: new chances."""
        if self._by_chance:
            for count in self._writes.arrays.values():
                count += 1

    @property
    def _chances(self) -> Key:
        """The key of the chances of the pass that goes on."""
        [count] = self._writes.arrays.values()
        return Key(self._seed, int(count[0]), -1)

    def _write(self, tile: Tile, theta: Array) -> None:
        """Store θ on a tile, given as float32 in scratch that may be spoilt."""
        block = tile.block
        if block.name in self._masters:
            tile.of(self._masters[block.name])[:] = theta
        elif self._by_chance and block.dtype in NARROW:
            u = self.noise.coarse(tile.shape, self._chances, tile, "rounding")
            round_by_chance(theta, u, block.dtype, self._integer)
        tile.of(block.array)[:] = theta

    def _theta_of(self, block: Block) -> Array:
        """The array that holds θ: the block's own or its master."""
        return self._masters.get(block.name, block.array)

    def _moves(self, block: Block, decayed: Direction, plain: Direction) -> bool:
        return (block.decays and self._keep != 1.0) or (decayed if block.decays else plain).touches(block)

    def _moved(self, tile: Tile, keep: float, decayed: Direction, plain: Direction) -> Array:
        """keep·W + decayed or W + plain on a tile, float32 in scratch."""
        theta = self._wide(tile, "theta")
        direction, factor = (decayed, keep) if tile.block.decays else (plain, 1.0)
        if factor != 1.0:
            theta *= factor
        if direction.touches(tile.block):
            theta += self.entries(direction, tile)
        return theta

    def _at_theta(self, tile: Tile) -> Array:
        """θ on a tile, float32 in scratch, whatever the arrays hold."""
        return self._moved(tile, self._keep, self._shift, self._plain)

    def _share(self, blocks: Sequence[Block]) -> float:
        """What a pass over some blocks counts for."""
        return sum(block.size for block in blocks) / self.size

    def _factors(self, direction: Direction, tile: Tile) -> tuple[Array, Array] | None:
        """(U, V) of all terms of a direction on a tile, coefficients in U; terms with one V are added up."""
        found: list[tuple[Array, Array]] = []
        for draw, c in direction:
            factors = draw.sampler.factors(tile, draw.key, self.noise)
            if factors is None or draw.scales or (draw.part is not None and tile.block not in draw.part):
                return None
            u, v = c * factors[0], factors[1]
            if found and found[-1][1].shape == v.shape and bool((found[-1][1] == v).all()):
                found[-1] = (found[-1][0] + u, v)
            else:
                found.append((u, v))
        if len(found) < 2:
            return found[0] if found else None
        return self._side_by_side([u for u, _ in found]), self._side_by_side([v for _, v in found])

    def _side_by_side(self, arrays: Sequence[Array]) -> Array:
        whole = self._empty((arrays[0].shape[0], sum(array.shape[1] for array in arrays)), "float32")
        start = 0
        for array in arrays:
            whole[:, start : start + array.shape[1]] = array
            start += array.shape[1]
        return whole

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
        theta[:] = tile.of(self._theta_of(tile.block))
        return theta

    def _space_for(self, tile: Tile, purpose: str) -> Array:
        wide = _wide_dtype(tile.block)
        name = f"{purpose}/{wide}"
        held = self._scratch.get(name)
        if held is None or held.shape[0] < tile.size:
            held = self._scratch[name] = self._empty((tile.size,), wide)
        return held[: tile.size].reshape(tile.shape)


class Points:
    """What the arrays hold + d for several directions d, written beside them a few tiles at a time.

    Args:
        space: whose arrays stay as they are as long as this is used.
        directions: numbered from 0.
    """

    def __init__(self, space: ParameterSpace, directions: Sequence[Direction]) -> None:
        self.space = space
        self.directions = directions

    def write(self, tiles: Sequence[Tile], chosen: Sequence[int], target: Array) -> None:
        """Write some tiles, one after the other, to a line of `target` for each of the chosen directions.

        A line has as many entries as the tiles, and the dtype of their blocks; the numbers are those of `form`.
        """
        for number, line in zip(chosen, target, strict=True):
            begin = 0
            for whole in tiles:
                for tile in whole.tiles():
                    theta = self.space._wide(tile, "theta")
                    theta += self.space.entries(self.directions[number], tile)
                    line[begin : begin + tile.size] = theta.reshape(-1)
                    begin += tile.size


def _rows(buffers: Sequence[Buffer], tile: Tile) -> list[Array | None]:
    """Each buffer's rows of a tile; None where it does not cover the block."""
    name = tile.block.name
    return [tile.of(buffer.arrays[name]) if name in buffer.arrays else None for buffer in buffers]


def _wide_dtype(block: Block) -> str:
    return "float64" if block.dtype == "float64" else "float32"


def _as_float32(number: float) -> float:
    """Rounded to 24 bits, so that the order in which it was summed leaves hardly a trace."""
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def _from_bits(bits: int, dtype: str) -> float:
    """The number of a type with this bit pattern."""
    whole, number = ("<I", "<f") if dtype == "float32" else ("<Q", "<d")
    return float(struct.unpack(number, struct.pack(whole, bits))[0])
