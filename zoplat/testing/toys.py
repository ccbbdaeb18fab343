"""A loss of a few small arrays over a real parameter space."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from random import Random
from typing import Any, TypeAlias

import numpy as np

from zoplat.core.blocks import TILE, Block, Part, Tile
from zoplat.core.direction import Direction
from zoplat.core.input_directions import LossAndRows, count, directions_of
from zoplat.core.losses import LossBackend, RecordedLosses, in_blocks
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.space.backend import Backend
from zoplat.space.buffers import MakeArray
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.space.rounding import RoundingName
from zoplat.space.update import Update
from zoplat.testing.noise import ToyNoise, Vector

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class SmallTiles(Block):
    """A block cut into small tiles, so that a small array has several.

    Attributes:
        grid: entries of a tile, about.
    """

    grid: int = 16

    def tiles(self, entries: int = TILE) -> Iterator[Tile]:
        """Runs of whole rows of about `grid` entries, or `entries` if that is less."""
        yield from Block.tiles(self, min(entries, self.grid))


class Backwards(Backend):
    """A backend that visits and moves blocks from the last to the first; they are listed in order."""

    def visiting_order(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """From the last to the first."""
        return blocks[::-1]

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        """From the last to the first."""
        super().move(blocks[::-1], update)


class Toy:
    """A loss of a few small arrays, which answers as a device does.

    Args:
        start: where θ begins, all blocks one after the other.
        shapes: of the blocks, by name.
        loss: of θ as one float64 vector.
        gradient: of θ as one float64 vector, where it is known.
        dtype: of the arrays: "float64", "float32", "float16", or "bfloat16" once ml_dtypes is imported.
        restore: as in `ParameterSpace`.
        grid: entries of a tile, about.
        backwards: whether blocks are visited from the last to the first.
        layers: the layer of each block, where it has one.
        rounding: as in `ParameterSpace`.
        library: of the arrays that the space works on: "numpy" or "torch".

    Attributes:
        space: of the arrays.
        blocks: in the order of the vectors that `loss` takes.
        arrays: the numpy arrays of the blocks, by name.
    """

    strategy = "sequential"

    def __init__(
        self,
        start: Vector,
        shapes: Shapes,
        loss: Callable[[Vector], float],
        gradient: Callable[[Vector], Vector] | None = None,
        dtype: str = "float64",
        restore: Restore = "in-place",
        grid: int = 16,
        backwards: bool = False,
        layers: Mapping[str, int] | None = None,
        rounding: RoundingName = "nearest",
        library: str = "numpy",
    ) -> None:
        self.loss = loss
        self.gradient = gradient
        self._made = {"start": start, "shapes": shapes, "loss": loss, "gradient": gradient, "dtype": dtype}
        self._made |= {"restore": restore, "grid": grid, "backwards": backwards, "layers": layers}
        self._made |= {"rounding": rounding, "library": library}
        self.of_library = library_arrays(library)
        self.blocks: list[Block] = []
        self.arrays: dict[str, Any] = {}
        at = 0
        for name, shape in shapes.items():
            self.arrays[name] = array = start[at : at + math.prod(shape)].reshape(shape).astype(dtype)
            layer = (layers or {}).get(name)
            self.blocks.append(SmallTiles(name, self.of_library(array), dtype, layer, len(shape) == 2, grid))
            at += array.size
        self.noise = ToyNoise("float64" if dtype == "float64" else "float32", self.of_library)
        empty, mapped = (in_library(make, self.of_library) for make in (empty_array, mapped_array))
        backend = (Backwards if backwards else Backend)(self.noise, empty, mapped)
        self.space = ParameterSpace(self.blocks, backend, restore, rounding)

    def anew(self, **changes: Any) -> Toy:
        """The same toy at its start; with other arguments where some are given."""
        return Toy(**{**self._made, **changes})

    @property
    def held(self) -> Vector:
        """What the arrays hold now: θ, or θ + a probe."""
        return np.concatenate([array.astype(np.float64).reshape(-1) for array in self.arrays.values()])

    @property
    def theta(self) -> Vector:
        """θ; settles first."""
        self.space.settle()
        return self.held

    @property
    def bits(self) -> bytes:
        """θ as stored, to the bit; settles first."""
        self.space.settle()
        return b"".join(array.tobytes() for array in self.arrays.values())

    def entries(self, direction: Direction) -> Vector:
        """All entries of a direction, float64."""
        return np.concatenate(
            [
                as_numpy(self.space.entries(direction, tile)).astype(np.float64).reshape(-1)
                for block in self.blocks
                for tile in block.tiles()
            ]
        )

    def forward(self) -> float:
        """The loss at the weights that a forward pass sees now."""
        perturbation = self.space.perturbation
        return float(self.loss(self.held + self.entries(perturbation) if perturbation else self.held))

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        """The losses at θ + d; the arrays are not changed."""
        return [float(self.loss(self.held + self.entries(direction))) for direction in directions]

    def slope(self, direction: Direction) -> float:
        """⟨∇L, d⟩ at θ."""
        return float(self.slopes @ self.entries(direction))

    def by_block(self, part: Part) -> dict[str, Any]:
        """∇L at θ, on the blocks of a part."""
        gradient, at, found = self.slopes, 0, {}
        for block in self.blocks:
            if block in part:
                found[block.name] = self.of_library(gradient[at : at + block.size].reshape(block.shape))
            at += block.size
        return found

    @property
    def slopes(self) -> Vector:
        """∇L at θ; by differences where it is not known."""
        if self.gradient is not None:
            return self.gradient(self.held)
        theta, h = self.held, 1e-6
        return np.array([(self.loss(theta + h * e) - self.loss(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])

    def oracle(self, step: int, steps: int = 1000, seed: int = 0, answers: Sequence[float] | None = None) -> Oracle:
        """The oracle of one step, or one that repeats recorded answers."""
        backend = ToyLosses(self, f"{seed}/{step}") if answers is None else RecordedLosses(step, answers, self.strategy)
        return Oracle(self.space, Key(seed, step, 0), step / steps, backend)


SHARES = (0.4, 0.8, 1.2, 1.6)
"""The loss of each row of a toy's batch, in units of their mean, which is the loss of the toy."""


class ToyLosses(LossBackend):
    """The losses of a toy; an auxiliary batch has the same loss.

    Args:
        toy: has the loss.
        name: of the step; its noise is drawn from it, in place of secret noise, so that checks can be repeated.
    """

    def __init__(self, toy: Toy, name: str = "") -> None:
        self.toy, self.strategy = toy, toy.strategy
        self._noise = Random(name)

    def forward(self) -> float:
        """The loss at the weights as they stand."""
        return self.toy.forward()

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        """The losses at θ + d."""
        return self.toy.losses_at(directions)

    def jvp(self, direction: Direction) -> tuple[float, float]:
        """The loss and its derivative."""
        return self.toy.forward(), self.toy.slope(direction)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        """The loss and its gradient."""
        return self.toy.forward(), self.toy.by_block(part)

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        """Norms that increase with the index of the input."""
        known = {block.name: [1.0 + i for i in range(block.shape[-1])] for block in space.blocks}
        return in_blocks(space, known)

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        """The loss, and cosines of increasing frequency; matrices whose name has "embed" have no known inputs."""
        known = {
            block.name: [
                [math.cos(math.pi * (i + 0.5) * k / block.shape[1]) for i in range(block.shape[1])]
                for k in range(count(block.shape, rank))
            ]
            for block in space.blocks
            if len(block.shape) == 2 and "embed" not in block.name
        }
        return self.toy.forward(), directions_of(space.blocks, rank, known)

    def row_count(self) -> float:
        """As many rows as there are shares."""
        return float(len(SHARES))

    def row_losses(self, rows: Sequence[int]) -> list[float]:
        """The losses of some rows as the weights stand."""
        return [SHARES[row] * self.toy.forward() for row in rows]

    def row_losses_at(self, points: Sequence[Sequence[Direction]]) -> list[list[float]]:
        """The losses of all rows at θ + d, each with its own d."""
        return [
            [share * loss for share, loss in zip(SHARES, self.toy.losses_at(point), strict=True)] for point in points
        ]

    def secret_normals(self, n: int) -> list[float]:
        """Normal numbers that are no secret."""
        return [self._noise.gauss(0.0, 1.0) for _ in range(n)]

    def on_batch(self, index: int) -> LossBackend:
        """The same."""
        return self


def library_arrays(library: str) -> Callable[[Any], Any]:
    """What makes an array of a library from one of numpy, over the same memory."""
    if library == "numpy":
        return lambda array: array
    of_numpy: Callable[[Any], Any] = import_module(library).from_numpy
    return of_numpy


def as_numpy(array: Any) -> Any:
    """An array of any library as one of numpy, over the same memory."""
    return array.numpy() if hasattr(array, "numpy") else array


def in_library(make: MakeArray, of_library: Callable[[Any], Any]) -> MakeArray:
    """What makes new arrays, of another library."""
    return lambda shape, dtype: of_library(make(shape, dtype))


def empty_array(shape: tuple[int, ...], dtype: str) -> Any:
    """An array in memory."""
    return np.empty(shape, dtype)


def mapped_array(shape: tuple[int, ...], dtype: str) -> Any:
    """An array in a file without a name."""
    with tempfile.TemporaryFile() as file:
        file.truncate(max(1, math.prod(shape)) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, mode="r+", shape=shape)
