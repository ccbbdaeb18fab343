"""Small problems with known answers, over a real parameter space, and the engine's step in five lines."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from zoplat.core.blocks import TILE, Block, Part, Tile
from zoplat.core.direction import Direction
from zoplat.core.errors import SkipStep
from zoplat.core.estimate import Estimate
from zoplat.core.estimator import Estimator
from zoplat.core.losses import LossBackend, RecordedLosses, in_blocks
from zoplat.core.noise import Key, Stream
from zoplat.core.oracle import Oracle
from zoplat.core.rule import Schedule
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.space.rounding import RoundingName
from zoplat.space.update import Update
from zoplat_devices.kernels.noise import ReferenceNoise

Vector: TypeAlias = npt.NDArray[np.float64]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Address: TypeAlias = tuple[Key | str, ...]
"""Where random numbers come from."""

SHAPES: Shapes = {"square.weight": (4, 5), "row.weight": (1, 7), "tall.weight": (20, 2), "long.bias": (20,)}
"""A matrix, a matrix of one row, and a matrix and a vector that are longer than a toy's tile."""

FEW, MANY = 64, 512  # numbers of a stream that are kept; no block of the toys here has more than the former


@dataclass(frozen=True)
class Plain(Schedule):
    """A constant step size; see `Schedule` for the fields."""

    def curve(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Sweeping(Plain):
    """The same step, made in a pass of its own, as a rule with state does."""

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        lr = self.rate(oracle)

        def kernel(theta: Any, g: Any) -> None:
            theta -= lr * g

        oracle.space.sweep(kernel, estimate.direction)


@dataclass(frozen=True, eq=False)
class SmallTiles(Block):
    """A block cut finely, so that a small array has several tiles.

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
        """As ever, backwards."""
        return blocks[::-1]

    def move(self, blocks: Sequence[Block], update: Update) -> None:
        """As ever, backwards."""
        super().move(blocks[::-1], update)


class ToyNoise(ReferenceNoise):
    """The reference noise; a run's first numbers are kept, since toys ask for the same few again and again.

    Args:
        dtype: of the arrays; in float64 the same numbers, and whatever a law makes of them in float64 too.
    """

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype
        self._heard: set[Address] = set()

    @contextmanager
    def listening(self) -> Iterator[set[Address]]:
        """The addresses that are asked for within."""
        before, self._heard = self._heard, set()
        yield self._heard
        self._heard = before

    def _at(self, law: str, shape: tuple[int, ...], address: tuple[Key | Tile | str, ...]) -> Any:
        self._heard.add(tuple(part.block.name if isinstance(part, Tile) else part for part in address))
        return super()._at(law, shape, address)

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Vector:
        """As the reference makes them."""
        end = first + math.prod(shape)
        for kept, most in ((_few, FEW), (_many, MANY)):
            if end <= most:
                return kept(law, stream)[first:end].reshape(shape).astype(self.dtype)
        return super().numbers(law, stream, first, shape).astype(self.dtype)


@lru_cache(maxsize=1 << 15)
def _few(law: str, stream: Stream) -> Vector:
    return ReferenceNoise().numbers(law, stream, 0, (FEW,)).copy()


@lru_cache(maxsize=1 << 10)
def _many(law: str, stream: Stream) -> Vector:
    return ReferenceNoise().numbers(law, stream, 0, (MANY,)).copy()


class Toy:
    """A loss of a few small arrays, asked the way a device is asked.

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

    Attributes:
        space: of the arrays.
        blocks: in the order of the vectors that `loss` takes.
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
    ) -> None:
        self.loss = loss
        self.gradient = gradient
        self._made = {"start": start, "shapes": shapes, "loss": loss, "gradient": gradient, "dtype": dtype}
        self._made |= {"restore": restore, "grid": grid, "backwards": backwards, "layers": layers}
        self._made |= {"rounding": rounding}
        self.blocks: list[Block] = []
        at = 0
        for name, shape in shapes.items():
            array = start[at : at + math.prod(shape)].reshape(shape).astype(dtype)
            layer = (layers or {}).get(name)
            block = SmallTiles(name, array, dtype, layer, len(shape) == 2, grid)
            self.blocks.append(block)
            at += array.size
        self.noise = ToyNoise("float64" if dtype == "float64" else "float32")
        backend = (Backwards if backwards else Backend)(self.noise, np.empty, mapped_array)
        self.space = ParameterSpace(self.blocks, backend, restore, rounding)

    def anew(self, **changes: Any) -> Toy:
        """The same toy at its start; with other arguments where some are given."""
        return Toy(**{**self._made, **changes})

    @property
    def held(self) -> Vector:
        """What the arrays hold now, wherever they stand."""
        return np.concatenate([block.array.astype(np.float64).reshape(-1) for block in self.blocks])

    @property
    def theta(self) -> Vector:
        """θ; settles first."""
        self.space.settle()
        return self.held

    @property
    def bits(self) -> bytes:
        """θ as stored, to the bit; settles first."""
        self.space.settle()
        return b"".join(block.array.tobytes() for block in self.blocks)

    def entries(self, direction: Direction) -> Vector:
        """All entries of a direction, float64."""
        return np.concatenate(
            [
                np.array(self.space.entries(direction, tile), np.float64).reshape(-1)
                for block in self.blocks
                for tile in block.tiles()
            ]
        )

    def forward(self) -> float:
        """The loss where a forward pass would see the weights now."""
        perturbation = self.space.perturbation
        return float(self.loss(self.held + self.entries(perturbation) if perturbation else self.held))

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        """The losses at θ + d, the arrays left alone."""
        return [float(self.loss(self.held + self.entries(direction))) for direction in directions]

    def slope(self, direction: Direction) -> float:
        """⟨∇L, d⟩ at θ."""
        return float(self.slopes @ self.entries(direction))

    def by_block(self, part: Part) -> dict[str, Vector]:
        """∇L at θ, on the blocks of a part."""
        gradient, at, found = self.slopes, 0, {}
        for block in self.blocks:
            if block in part:
                found[block.name] = gradient[at : at + block.size].reshape(block.shape)
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
        source = Asked(self) if answers is None else RecordedLosses(step, answers, self.strategy)
        return Oracle(self.space, Key(seed, step, 0), step / steps, source)


class Asked(LossBackend):
    """A toy as a source of answers; another batch is the same loss."""

    def __init__(self, toy: Toy) -> None:
        self.toy, self.strategy = toy, toy.strategy

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
        """Norms that rise with the index of the input."""
        known = {block.name: [1.0 + i for i in range(block.shape[-1])] for block in space.blocks}
        return in_blocks(space, known)

    def on_batch(self, index: int) -> LossBackend:
        """The same."""
        return self


class Run:
    """An estimator at work on a toy, step by step as the engine goes.

    Attributes:
        state, rule_state: of the estimator and of its rule.
        step: steps done.
        skipped: why the last step could not be made; empty where it could.
    """

    def __init__(self, toy: Toy, estimator: Estimator, steps: int, seed: int = 0) -> None:
        self.toy, self.estimator, self.steps, self.seed = toy, estimator, steps, seed
        self.state = estimator.init(toy.space)
        self.rule_state = estimator.rule.init_for(toy.space, estimator.law)
        self.step, self.skipped = 0, ""

    def advance(self, oracle: Oracle | None = None) -> Oracle:
        """One step, with the toy's own oracle unless another is given; returns the oracle."""
        for _ in self.applied(oracle := oracle or self.toy.oracle(self.step, self.steps, self.seed)):
            pass
        return oracle

    def applied(self, oracle: Oracle) -> Iterator[Estimate]:
        """One step; each estimate is handed out once it is applied."""
        self.skipped = ""
        try:
            for estimate in self.estimator.estimate(oracle, self.state):
                self.estimator.rule.apply(estimate, oracle, self.rule_state)
                yield estimate
        except SkipStep as problem:
            self.skipped = str(problem)
        self.step += 1


def train(
    toy: Toy,
    estimator: Estimator,
    steps: int,
    seed: int = 0,
    answers: Sequence[Sequence[float]] | None = None,
) -> list[list[float]]:
    """Run `estimator` on a toy as the engine does, or replay `answers`; returns the answers step by step."""
    run = Run(toy, estimator, steps, seed)
    told = []
    for step in range(steps):
        oracle = toy.oracle(step, steps, seed, None if answers is None else answers[step])
        run.advance(oracle)
        told.append(oracle.answers)
    toy.space.settle()
    return told


def linear(shapes: Shapes = SHAPES, dtype: str = "float64", restore: Restore = "in-place") -> Toy:
    """a·θ + c: every difference of losses is exact, whatever ε."""
    start, slope = _numbers(shapes, 2)
    return Toy(start, shapes, lambda theta: float(slope @ theta) + 1.5, lambda theta: slope, dtype, restore)


def quadratic(shapes: Shapes = SHAPES, dtype: str = "float64", restore: Restore = "in-place") -> Toy:
    """½θᵀHθ with H symmetric, eigenvalues between ½ and about 2½; least, and 0, at θ = 0."""
    return cubic(shapes, dtype, restore, kappa=0.0)


def cubic(shapes: Shapes = SHAPES, dtype: str = "float64", restore: Restore = "in-place", kappa: float = 0.1) -> Toy:
    """½θᵀHθ + κ Σθ³: the least loss whose central differences err, by κε²Σz³."""
    start, *rows = _numbers(shapes, 1 + sum(map(math.prod, shapes.values())))
    half = np.array(rows)
    hessian = 0.5 * half @ half.T / len(start) + 0.5 * np.eye(len(start))
    return Toy(
        start,
        shapes,
        lambda theta: float(theta @ hessian @ theta) / 2 + kappa * float((theta**3).sum()),
        lambda theta: hessian @ theta + 3 * kappa * theta**2,
        dtype,
        restore,
    )


def two_layers(dtype: str = "float64", restore: Restore = "in-place", rows: slice = slice(None)) -> Toy:
    """Mean squared error of a network tanh → linear on `rows` of 40 fixed examples with 3 inputs."""
    shapes = {"hidden.weight": (12, 3), "hidden.bias": (12,), "output.weight": (1, 12), "output.bias": (1,)}
    rng = np.random.default_rng(20)
    start = rng.normal(size=61) * 0.5
    inputs = rng.normal(size=(40, 3))
    targets = np.sin(2 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]

    def errors(theta: Vector) -> tuple[Vector, Vector]:
        hidden = np.tanh(inputs[rows] @ theta[:36].reshape(12, 3).T + theta[36:48])
        return hidden, hidden @ theta[48:60] + theta[60] - targets[rows]

    def loss(theta: Vector) -> float:
        return float(np.mean(errors(theta)[1] ** 2))

    def gradient(theta: Vector) -> Vector:
        hidden, error = errors(theta)
        error = 2 * error / len(error)
        inner = np.outer(error, theta[48:60]) * (1 - hidden**2)
        parts = (inner.T @ inputs[rows], inner.sum(axis=0), error @ hidden, error.sum())
        return np.concatenate([np.reshape(part, -1) for part in parts])

    return Toy(start, shapes, loss, gradient, dtype, restore)


def like_a_model(toy: Toy) -> Toy:
    """The same toy with the names and layers of a language model's weights, for methods that choose by them."""
    names = [
        f"layers.{i % 4 // 2}.self_attn.{'qv'[i % 2]}_proj.{'weight' if len(block.shape) == 2 else 'bias'}"
        for i, block in enumerate(toy.blocks)
    ]
    shapes = {name: block.shape for name, block in zip(names, toy.blocks, strict=True)}
    return toy.anew(shapes=shapes, layers={name: int(name[7]) for name in names})


def mapped_array(shape: tuple[int, ...], dtype: str) -> Any:
    """An array in a file without a name."""
    with tempfile.TemporaryFile() as file:
        file.truncate(max(1, math.prod(shape)) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, mode="r+", shape=shape)


def _numbers(shapes: Shapes, count: int) -> Vector:
    return np.random.default_rng(10).normal(size=(count, sum(map(math.prod, shapes.values()))))
