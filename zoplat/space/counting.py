"""A parameter space that only counts: arrays without entries, passes that move nothing.

It takes the shapes of a model of any size, needs no memory for them, and counts passes over the weights and bytes of
state as the real space does, because it is the real space over another backend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from zoplat.core.arrays import Array
from zoplat.core.blocks import TILE, Block, Buffer, Part, Tile
from zoplat.core.direction import ZERO, Direction, Draw
from zoplat.core.noise import Noise, Stream
from zoplat.space.backend import Backend, Kernel
from zoplat.space.drift import DriftMeter
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.space.rounding import RoundingName
from zoplat.space.update import Update


class Shaped(Protocol):
    """What is to be known of a weight array: `Block` and `BlockShape` have it."""

    @property
    def name(self) -> str:
        """Unique."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,) or (rows, columns)."""

    @property
    def dtype(self) -> str:
        """Of the stored weights."""

    @property
    def layer(self) -> int | None:
        """The layer that it belongs to, or None."""


@dataclass(frozen=True)
class BlockShape:
    """A weight array that does not exist.

    Attributes:
        name: unique; methods may choose weights by it.
        shape: (n,) or (rows, columns).
        dtype: of the stored weights.
        layer: index of the layer it belongs to, or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layer: int | None = None


class PlaceholderArray:
    """An array with a shape, a type and no entries: writing to it does nothing, arithmetic gives another of its kind.

    As a number it is 1, as a condition true. The entries of a vector can be iterated over; they are random.

    Args:
        shape: lengths of its dimensions.
        dtype: by name, such as "float32".
        seed: of the random numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> None:
        self.shape, self.dtype, self.seed = tuple(shape), dtype, seed

    @property
    def nbytes(self) -> int:
        """Bytes that the entries would take."""
        return math.prod(self.shape) * itemsize(self.dtype)

    @property
    def T(self) -> PlaceholderArray:  # noqa: N802  # its name in numpy and torch
        """The transpose."""
        return self._like(self.shape[::-1])

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        random = Random(self.seed)
        return (self._like(self.shape[1:]) if len(self.shape) > 1 else random.gauss(0, 1) for _ in range(len(self)))

    def __getitem__(self, index: Any, /) -> PlaceholderArray:
        return self._like(_indexed(self.shape, index))

    def __setitem__(self, index: Any, value: Any, /) -> None:
        return None

    def __matmul__(self, other: Any, /) -> PlaceholderArray:
        return self._like((*self.shape[:-1], *other.shape[1:]))

    def __float__(self) -> float:
        return 1.0

    def __int__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return True

    def sum(self) -> PlaceholderArray:
        """A scalar."""
        return self._like(())

    def reshape(self, *shape: Any) -> PlaceholderArray:
        """One length may be −1, as in numpy."""
        lengths = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        rest = math.prod(self.shape) // max(1, math.prod(length for length in lengths if length >= 0))
        return self._like(tuple(rest if length < 0 else length for length in lengths))

    def view(self, dtype: Any, /) -> PlaceholderArray:
        """The same shape with another type of the same size."""
        return PlaceholderArray(self.shape, str(dtype), self.seed)

    def clip(self, min: Any = None, max: Any = None) -> PlaceholderArray:  # noqa: A002
        """The same."""
        return self

    def _like(self, shape: tuple[int, ...]) -> PlaceholderArray:
        return PlaceholderArray(shape, self.dtype, self.seed)

    def _with(self, other: Any, /) -> PlaceholderArray:
        """The result of an operation entry by entry, its shape by broadcasting."""
        shape = getattr(other, "shape", ())
        longer, shorter = (self.shape, shape) if len(self.shape) >= len(shape) else (shape, self.shape)
        padded = (1,) * (len(longer) - len(shorter)) + tuple(shorter)
        return self._like(tuple(map(max, longer, padded)))

    def _itself(self, *others: Any) -> PlaceholderArray:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _with
    __pow__ = __rpow__ = __mod__ = __rshift__ = __and__ = __or__ = __xor__ = __lt__ = __le__ = __gt__ = __ge__ = _with
    __eq__ = __ne__ = _with  # type: ignore[assignment]  # entry by entry, as arrays do
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __neg__ = __abs__ = _itself
    __hash__ = None  # type: ignore[assignment]


class PlaceholderNoise(Noise):
    """Placeholders for random numbers. Those of a vector differ from address to address, under any law."""

    name = "placeholder"

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Array:
        """A placeholder of the shape."""
        return PlaceholderArray(shape, seed=hash((stream, first)))


class SingleTile(Block):
    """A block that is one tile, whatever its size: what makes no numbers needs no scratch."""

    def tiles(self, entries: int = TILE) -> Iterator[Tile]:
        """The whole of it."""
        yield Tile(self, 0, self.shape[0])


class CountingBackend(Backend):
    """Moves nothing; buffers that it makes are placeholders."""

    def __init__(self) -> None:
        super().__init__(PlaceholderNoise(), PlaceholderArray, PlaceholderArray)

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        """Nothing."""

    def form(self, block: Block, direction: Direction, target: Array) -> None:
        """Nothing."""

    def sweep(
        self,
        block: Block,
        kernel: Kernel,
        update: Update,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> None:
        """Nothing: a kernel changes arrays and does nothing else."""

    def entries(self, direction: Iterable[tuple[Draw, float]], tile: Tile, purpose: str = "sum") -> Array:
        """A placeholder of the tile's shape."""
        return PlaceholderArray(tile.shape)


class CountingSpace(ParameterSpace):
    """θ by its shapes. Passes and buffers are those of a real space; norms, sums and quantiles are between 1 and 2.

    Args:
        shapes: of the trainable arrays, in registration order.
        restore, rounding: as in `ParameterSpace`.
        backend: makes the arrays; placeholders when None.
        state_in_files: as in `ParameterSpace`.

    Attributes:
        probe: the direction whose point, θ + direction, was last asked for.
    """

    def __init__(
        self,
        shapes: Sequence[Shaped],
        restore: Restore = "in-place",
        rounding: RoundingName = "nearest",
        backend: CountingBackend | None = None,
        state_in_files: bool = False,
    ) -> None:
        self.probe: Direction = ZERO
        self._random = Random(0)
        blocks = [shape if isinstance(shape, Block) else _block(shape) for shape in shapes]
        super().__init__(blocks, backend or CountingBackend(), restore, rounding, state_in_files=state_in_files)

    def at(self, direction: Direction) -> None:
        """As in a real space; the direction is remembered."""
        super().at(direction)
        self.probe = direction

    def sweep_factors(
        self, kernel: Kernel, vectors: Kernel, direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None
    ) -> None:
        """One pass, like any sweep."""
        self.sweep(kernel, direction, *buffers, on=on)

    def reduce(
        self, count: Callable[..., Any], direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """A number for each block; settles first."""
        self.settle()
        return self._by_block(on)

    def quantiles(
        self, share: float, score: Callable[..., Any], *buffers: Buffer, on: Part | None = None
    ) -> dict[str, float]:
        """A number for each block; settles first."""
        self.settle()
        return self._by_block(on)

    def norm(self, direction: Direction) -> float:
        """A number; no pass."""
        return 1 + self._random.random()

    def dot(self, one: Direction, other: Direction, on: Part | None = None) -> dict[str, float]:
        """A number for each block; no pass."""
        return self._by_block(on)

    def broadcast_row(self, owner: str, rows: Mapping[str, Sequence[float]]) -> Buffer:
        """Placeholders of the rows."""
        return Buffer(owner, {name: PlaceholderArray((1, len(row))) for name, row in rows.items()})

    def _by_block(self, on: Part | None) -> dict[str, float]:
        return {block.name: 1 + self._random.random() for block in self.blocks if on is None or block in on}


def itemsize(dtype: str) -> int:
    """Bytes of an entry of a type by its name: the number in it, in bits.

    >>> itemsize("bfloat16"), itemsize("uint8")
    (2, 1)
    """
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits.group()) // 8) if bits else 1


def _block(shape: Shaped) -> Block:
    array = PlaceholderArray(shape.shape, shape.dtype)
    return SingleTile(shape.name, array, shape.dtype, shape.layer, decays=len(shape.shape) == 2)


def _indexed(shape: tuple[int, ...], index: Any) -> tuple[int, ...]:
    """The shape of array[index] for whole numbers and slices; anything else keeps its dimension."""
    found = []
    indices = index if isinstance(index, tuple) else (index,)
    for length, each in zip(shape, indices, strict=False):
        if not isinstance(each, int):
            found.append(len(range(*each.indices(length))) if isinstance(each, slice) else length)
    return (*found, *shape[len(indices) :])
