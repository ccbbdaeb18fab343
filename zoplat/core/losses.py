"""Loss backends: where the answers of an oracle come from, a live session or a journal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from random import SystemRandom
from typing import Any, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Part
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.input_directions import LossAndRows, count
from zoplat.space.parameter_space import ParameterSpace

Number: TypeAlias = Any
"""A float, or an array of one number that the device has queued: `float()` waits for it."""


SIDE_TERMS = {"sequential": "side-terms", "batched": "batched-side-terms"}
"""Strategy → the one in its place for directions with factors: forward passes add perturbations and updates to products
as side terms, and the weights are written when V is renewed or θ is read. Other directions are evaluated as by the
strategy itself."""


class LossBackend(ABC):
    """Computes losses of one batch at the weights that the caller has set, or reads them from a journal.

    Attributes:
        strategy: how several losses are evaluated: "sequential", one point after the other in place; "batched", by one
            forward pass for all points, the weights staying at θ; "streaming", layer by layer for all points,
            where each layer is settled first. For directions of low rank, one of `SIDE_TERMS`.
    """

    strategy: str = "sequential"

    def together(self) -> AbstractContextManager[None]:
        """What is inside may be queued: moves of the weights, and forward passes whose results are read afterwards."""
        return nullcontext()

    @abstractmethod
    def forward(self) -> Number:
        """Loss of the batch at the weights as they are now."""

    def as_floats(self, answers: Sequence[Number]) -> list[float]:
        """Results of `forward` and `losses_at` as floats; waits until the device has computed them all."""
        return [float(answer) for answer in answers]

    def losses_at(self, directions: Sequence[Direction]) -> list[Number]:
        """Losses at several points: "streaming" settles the weights; else d is added to the arrays, which stay."""
        raise NotImplementedError

    def jvp(self, direction: Direction) -> tuple[float, float]:
        """Loss at θ, and its exact derivative along a direction, by forward-mode differentiation."""
        raise NotImplementedError

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        """Loss at θ, and its gradient with respect to the blocks of a part."""
        raise NotImplementedError

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        """For each matrix, the Euclidean norm of every input of its layer over the batch, 1 where there is none."""
        raise NotImplementedError

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        """Loss at θ, and for each matrix leading directions of its layer's inputs; see `Oracle.input_directions`."""
        raise NotImplementedError

    def row_count(self) -> Number:
        """Rows of the batch.

        Raises:
            ZoplatError: it has no rows of its own, or none whose losses are known.
        """
        raise ZoplatError("This method asks for the loss of each row, and here a batch has one loss. Use another one.")

    def row_losses(self, rows: Sequence[int]) -> list[Number]:
        """Loss of each of some rows of the batch by itself, at the weights as they are now."""
        raise NotImplementedError

    def row_losses_at(self, points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        """Loss of every row at a direction of its own, at each of several points; the weights as for `losses_at`."""
        raise NotImplementedError

    def secret_normals(self, n: int) -> list[float]:
        """Standard normal numbers that nobody can draw again: of the operating system's randomness, not of a seed."""
        system = SystemRandom()
        return [system.gauss(0.0, 1.0) for _ in range(n)]

    def on_batch(self, index: int) -> LossBackend:
        """The backend of auxiliary batch number `index` of this step."""
        raise NotImplementedError


class RecordedLosses(LossBackend):
    """Answers from a journal, from which a run is replayed without a forward pass.

    Args:
        step: for error messages.
        answers: recorded at that step, in order.
        strategy: of the recorded run.
    """

    def __init__(self, step: int, answers: Sequence[float], strategy: str = "sequential") -> None:
        self.strategy = strategy
        self.step = step
        self._count = len(answers)
        self._remaining: Iterator[float] = iter(answers)

    def forward(self) -> float:
        for answer in self._remaining:
            return answer
        raise ZoplatError(
            f"The journal has {self._count} answers for step {self.step}, the estimator asks for more. "
            "It was made with another estimator or another version of it."
        )

    def losses_at(self, directions: Sequence[Direction]) -> list[Number]:
        return [self.forward() for _ in directions]

    def jvp(self, direction: Direction) -> tuple[float, float]:
        return self.forward(), self.forward()

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        raise ZoplatError(
            f"Step {self.step} was made with a gradient, which a journal of numbers does not hold: this method can't "
            "be replayed. Its checkpoint has the weights."
        )

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        matrices = [block for block in space.blocks if len(block.shape) == 2]
        return {block.name: [self.forward() for _ in range(block.shape[1])] for block in matrices}

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        return self.forward(), {
            block.name: [[self.forward() for _ in range(block.shape[1])] for _ in range(count(block.shape, rank))]
            for block in space.blocks
            if len(block.shape) == 2
        }

    def row_count(self) -> Number:
        return self.forward()

    def row_losses(self, rows: Sequence[int]) -> list[Number]:
        return [self.forward() for _ in rows]

    def row_losses_at(self, points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        return [[self.forward() for _ in point] for point in points]

    def secret_normals(self, n: int) -> list[float]:
        return [self.forward() for _ in range(n)]

    def on_batch(self, index: int) -> LossBackend:
        return self


def in_blocks(space: ParameterSpace, known: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Norms for every matrix of the space, 1 for those that are not known; shape (columns,) each."""
    return {
        block.name: [float(x) for x in known.get(block.name, [1.0] * block.shape[1])]
        for block in space.blocks
        if len(block.shape) == 2
    }
