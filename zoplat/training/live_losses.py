"""Losses of a training batch from an open model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from zoplat.core.arrays import Array
from zoplat.core.blocks import Part
from zoplat.core.device import Session
from zoplat.core.direction import Direction
from zoplat.core.example import Row
from zoplat.core.input_directions import LossAndRows, directions_of
from zoplat.core.losses import LossBackend, Number, in_blocks
from zoplat.space.parameter_space import ParameterSpace
from zoplat.training.batches import Batches
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler


@dataclass
class LiveLosses(LossBackend):
    """The losses of one batch of one step, computed by a session.

    Attributes:
        session: the open model.
        objective: what is computed of a batch.
        batches: the training rows.
        profiler: measures every pass.
        step: the step of the run.
        rows: the batch.
        strategy: how several losses are evaluated; see `LossBackend`.
    """

    session: Session
    objective: Objective
    batches: Batches
    profiler: Profiler
    step: int
    rows: Sequence[Row]
    strategy: str

    def together(self) -> AbstractContextManager[None]:
        is_plain = self.objective.is_plain(self.rows)
        return self.session.together(partial(self.profiler.phase, "forward")) if is_plain else nullcontext()

    def forward(self) -> Number:
        with self.profiler.phase("forward"):
            return self.objective.loss(self.session, self.rows)

    def as_floats(self, answers: Sequence[Number]) -> list[float]:
        if all(isinstance(answer, float) for answer in answers):
            return [*answers]
        with self.profiler.phase("forward"):
            return super().as_floats(answers)

    def losses_at(self, directions: Sequence[Direction]) -> list[Number]:
        with self.profiler.phase("forward"):
            return self.objective.losses(self.session, self.rows, directions)

    def jvp(self, direction: Direction) -> tuple[float, float]:
        with self.profiler.phase("forward"):
            return self.objective.jvp(self.session, self.rows, direction)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        with self.profiler.phase("gradient"):
            return self.objective.gradient(self.session, self.rows, part, recompute)

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        with self.profiler.phase("forward"):
            return in_blocks(space, self.objective.input_norms(self.session, self.rows))

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        with self.profiler.phase("forward"):
            loss, known = self.objective.input_directions(self.session, self.rows, rank, rounds)
            return loss, directions_of(space.blocks, rank, known)

    def row_count(self) -> Number:
        return float(len(self.rows))

    def row_losses(self, rows: Sequence[int]) -> list[Number]:
        with self.profiler.phase("forward"):
            return self.objective.row_losses(self.session, [self.rows[row] for row in rows])

    def row_losses_at(self, points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        with self.profiler.phase("forward"):
            return self.objective.row_losses_at(self.session, self.rows, points)

    def on_batch(self, index: int) -> LossBackend:
        return replace(self, rows=self.batches.auxiliary(self.step, index))
