"""The oracle: answers about the loss of one batch near θ. Every answer is a number, and every answer is journaled."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import Literal, NamedTuple, TypeAlias

from zoplat.core.blocks import Buffer, Part
from zoplat.core.direction import ZERO, Direction, held
from zoplat.core.errors import NonFinite, ZoplatError
from zoplat.core.input_directions import numbers_in
from zoplat.core.losses import SIDE_TERMS, LossBackend, Number
from zoplat.core.noise import Key
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace

JVP_PASSES, GRADIENT_PASSES, RECOMPUTED_PASSES = 2, 3, 4
"""Cost of a derivative in forward passes: forward mode takes two; backpropagation one forward pass and a backward pass
of twice its work; with recomputation, every layer is run once more."""


Side: TypeAlias = Literal["two", "one"]


class Slopes(NamedTuple):
    """Projected gradients, and the losses they were computed from.

    Attributes:
        projected_grads: one for each direction.
        losses: in the order of evaluation.
    """

    projected_grads: list[float]
    losses: list[float]


@dataclass
class Tally:
    """What an oracle has computed.

    Attributes:
        passes: forward passes by batch, derivatives counted by their cost; None is the batch of the step, a number an
            auxiliary one.
        losses: the finite ones.
    """

    passes: Counter[int | None] = field(default_factory=Counter)
    losses: list[float] = field(default_factory=list)


class Oracle:
    """Losses and derivatives of one batch at one step.

    Args:
        space: θ.
        key: seed and step, from which the keys of this step's draws are made.
        progress: share of the run's budget that is spent, in [0, 1); None when the budget is only time.
        backend: computes the losses, or reads them from a journal.

    Attributes:
        step: step of the run, from 0.
        progress: as given.
        answers: every number returned so far, in order.
        applied: estimates of the step that the rule has applied so far.
        left_out: why the rule left the newest estimate out; empty where it applied it.
    """

    def __init__(self, space: ParameterSpace, key: Key, progress: float | None, backend: LossBackend) -> None:
        self.space = space
        self.step = key.step
        self.progress = progress
        self.answers: list[float] = []
        self.applied, self.left_out = 0, ""
        self._key = key
        self._backend = backend
        self._draws = count()
        self._tally = Tally()
        self._batch: int | None = None
        self._rows: int | None = None

    @property
    def passes(self) -> int:
        """Forward passes so far, derivatives counted by their cost."""
        return self._tally.passes.total()

    @property
    def passes_by_batch(self) -> Mapping[int | None, int]:
        """Those of each batch: of None, the batch of the step, and of each auxiliary one by its number."""
        return self._tally.passes

    @property
    def loss(self) -> float | None:
        """Mean of the finite losses so far; None if there is none."""
        seen = self._tally.losses
        return sum(seen) / len(seen) if seen else None

    def draw(self, sampler: Sampler, n: int) -> list[Direction]:
        """Draw `n` new directions for this step."""
        return [self.space.draw(sampler, self._fresh()) for _ in range(n)]

    def normals(self, n: int) -> list[float]:
        """Draw `n` standard normal numbers for this step, for use in the estimator itself."""
        return [float(x) for x in self.space.noise.normal((n,), self._fresh(), "numbers")]

    def secret_normals(self, n: int) -> list[float]:
        """Draw `n` standard normal numbers that no seed gives, for noise that keeps what it hides private.

        They are from the operating system's randomness, and answers: who has the journal can replay them, nobody else.

        Raises:
            NonFinite: a recorded one is not finite; that ends the step.
        """
        drawn = self._backend.secret_normals(n)
        self._record(drawn, 0, losses=0)
        if not all(map(math.isfinite, drawn)):
            raise NonFinite(f"The secret noise at step {self.step} is not finite.")
        return drawn

    def losses(self, *directions: Direction) -> list[float]:
        """L(θ + d) for each d, in order. Directions that are passed together can be evaluated together.

        Raises:
            NonFinite: a loss is infinite or not a number; that ends the step.
        """
        strategy = self._backend.strategy
        is_batched = strategy in ("batched", SIDE_TERMS["batched"])
        points = self.space.low_rank_points(directions) if strategy in SIDE_TERMS.values() else None
        if points is not None:
            together = [points] if is_batched else [[point] for point in points]
            found = [loss for some in together for loss in self._backend.losses_at(some)]
            losses = self._backend.as_floats(found)
            self._record(losses, len(losses), losses=len(losses))
        elif strategy == "streaming" or (is_batched and len(directions) > 1):
            if is_batched:
                self.space.settle()
            losses = self._backend.as_floats(self._backend.losses_at(directions))
            self.space.settle()  # when streaming, blocks that the pass did not reach; all blocks in a replay
            self._record(losses, len(losses), losses=len(losses))
        else:
            losses = self._sequential(directions)
        for direction, loss in zip(directions, losses, strict=True):
            self._check(direction, loss)
        return losses

    def slopes(self, directions: Sequence[Direction], eps: float, side: Side = "two") -> Slopes:
        """Projected gradients along some directions, evaluated together.

        Args:
            directions: z, before scaling by ε.
            eps: smoothing radius ε.
            side: "two" for central differences [L(θ + εz) − L(θ − εz)]/2ε; "one" for forward differences
                [L(θ + εz) − L(θ)]/ε with one common L(θ), which is evaluated first.
        """
        if side == "one":
            base, *ups = losses = self.losses(ZERO, *(eps * z for z in directions))
            return Slopes([(up - base) / eps for up in ups], losses)
        losses = self.losses(*(radius * z for z in directions for radius in (eps, -eps)))
        return Slopes([(up - down) / (2 * eps) for up, down in zip(losses[::2], losses[1::2], strict=True)], losses)

    def row_count(self) -> int:
        """Rows of the batch; an answer like any other."""
        if self._rows is None:
            [rows] = self._backend.as_floats([self._backend.row_count()])
            self._record([rows], 0, losses=0)
            if not math.isfinite(rows):
                raise NonFinite(f"The number of rows at step {self.step} is {rows}.")
            self._rows = int(rows)
        return self._rows

    def row_losses(self, *points: Direction | Sequence[Direction], skips: bool = True) -> list[list[float]]:
        """Loss of each row of the batch, by itself, at each point; a point counts for one pass.

        Rows with directions of their own are computed in one pass where the strategy is batched, else one row after
        the other.

        Args:
            points: for each, a direction d that all rows have, or one for every row; the losses are those at θ + d.
            skips: whether a loss that is infinite or not a number ends the step. False for methods in which no row may
                decide that by itself: they get such losses too.

        Raises:
            NonFinite: a loss is infinite or not a number, and `skips`; that ends the step.
            ZoplatError: a point has another number of directions than the batch has rows.
        """
        rows = self.row_count()
        asked = [[point] * rows if isinstance(point, Direction) else [*point] for point in points]
        for point in asked:
            if len(point) != rows:
                raise ZoplatError(
                    f"The loss of each row was asked for along {len(point)} directions, and the batch has {rows} rows. "
                    "Give one direction for each row, or one for all: `oracle.row_count()` is their number."
                )
        losses = self._row_losses(asked, rows)
        for direction, loss in zip((direction for point in asked for direction in point), losses, strict=True):
            if skips:
                self._check(direction, loss)
        return [losses[start : start + rows] for start in range(0, len(losses), rows)]

    def jvp(self, direction: Direction) -> tuple[float, float]:
        """(L(θ), ⟨∇L(θ), d⟩), exact, by forward-mode differentiation. Counts for two passes."""
        self.space.settle()
        loss, derivative = self._backend.jvp(direction)
        self._record([loss, derivative], JVP_PASSES, losses=1)
        self._check(direction, loss, derivative)
        return loss, derivative

    def gradient(self, part: Part | None = None, recompute: bool = False) -> tuple[float, Direction]:
        """L(θ) and ∇L(θ) on a part, by backpropagation; the direction is valid until the next call. Not replayable.

        Args:
            part: the blocks whose gradient is wanted; all when None. Layers before them keep no activations.
            recompute: keep only the input of each layer, and run the layer again in the backward pass.
        """
        self.space.settle()
        loss, arrays = self._backend.gradient(part or self.space.everything, recompute)
        self._record([loss], RECOMPUTED_PASSES if recompute else GRADIENT_PASSES, losses=1)
        gradient = held(Buffer("gradient", arrays))
        self._check(gradient, loss)
        return loss, gradient

    def input_norms(self) -> dict[str, list[float]]:
        """For each matrix, the Euclidean norm over the batch of each input feature of its layer; 1 if unknown."""
        self.space.settle()
        by_matrix = self._backend.input_norms(self.space)
        norms = [norm for row in by_matrix.values() for norm in row]
        self._record(norms, 1, losses=0)
        if not all(map(math.isfinite, norms)):
            raise NonFinite(f"The norm of an input at step {self.step} is not finite.")
        return by_matrix

    def input_directions(self, rank: int, rounds: int) -> tuple[float, Mapping[str, Sequence[Sequence[float]]]]:
        """L(θ), and for each matrix the leading directions of its layer's inputs over the batch; one forward pass.

        They are orthonormal, but rounded to five decimals to keep journals small. A row of zeros stands for a direction
        that the inputs do not have; all are zeros where the matrix is not that of a linear layer, or its inputs are not
        known.

        Args:
            rank: directions of a matrix, where it has as many rows and columns.
            rounds: of power iteration.
        """
        self.space.settle()
        loss, by_matrix = self._backend.input_directions(self.space, rank, rounds)
        numbers = numbers_in(by_matrix)
        self._record([loss, *numbers], 1, losses=1)
        self._check(ZERO, loss)
        if not all(map(math.isfinite, numbers)):
            raise NonFinite(f"A direction of inputs at step {self.step} is not finite.")
        return loss, by_matrix

    def on_batch(self, index: int) -> Oracle:
        """The oracle of auxiliary batch number `index` of this step; answers are journaled with this one's."""
        other = copy.copy(self)  # shares answers, draw numbers and tally
        other._backend, other._batch = self._backend.on_batch(index), index
        other._rows = None
        return other

    def _fresh(self) -> Key:
        return Key(self._key.seed, self.step, next(self._draws))

    def _sequential(self, directions: Sequence[Direction]) -> list[float]:
        """Queue the forward passes of all points before waiting for the first loss; record those that were queued."""
        queued: list[Number] = []
        losses: list[float] = []
        try:
            with self._backend.together():
                for direction in directions:
                    self.space.at(direction)
                    queued.append(self._backend.forward())
        finally:
            losses = self._backend.as_floats(queued)
            self._record(losses, len(losses), losses=len(losses))
        return losses

    def _row_losses(self, points: Sequence[Sequence[Direction]], rows: int) -> list[float]:
        """Losses of all rows at all points, one point after the other."""
        strategy = self._backend.strategy
        flat = [direction for point in points for direction in point]
        found = self.space.low_rank_points(flat) if strategy in SIDE_TERMS.values() else None
        if found is None and strategy in ("sequential", SIDE_TERMS["sequential"]):
            return self._row_by_row(points, rows)
        if found is None:
            self.space.settle()
        flat = flat if found is None else found
        at = [flat[start : start + rows] for start in range(0, len(flat), rows)]
        losses = self._backend.as_floats([loss for point in self._backend.row_losses_at(at) for loss in point])
        self._record(losses, len(points), losses=len(losses))
        return losses

    def _row_by_row(self, points: Sequence[Sequence[Direction]], rows: int) -> list[float]:
        """Move the weights to the direction of one row after the other; at once for neighbours that share theirs."""
        found: list[Number] = []
        losses: list[float] = []
        try:
            for point in points:
                for direction, some in groupby(range(rows), key=point.__getitem__):
                    self.space.at(direction)
                    found += self._backend.row_losses([*some])
        finally:
            losses = self._backend.as_floats(found)
            self._record(losses, -(-len(losses) // rows), losses=len(losses))
        return losses

    def _record(self, answers: Sequence[float], passes: int, losses: int) -> None:
        self.answers += answers
        self._tally.passes[self._batch] += passes
        self._tally.losses += [answer for answer in answers[:losses] if math.isfinite(answer)]

    def _check(self, direction: Direction, *answers: float) -> None:
        for answer in answers:
            if not math.isfinite(answer):
                raise NonFinite(f"The loss at step {self.step}, θ + ({direction}), is {answer}.")
