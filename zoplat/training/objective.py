"""The loss that training minimises: the model's own, or one minus a score, which needs no derivative."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import nan, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoplat.core.arrays import Array
from zoplat.core.blocks import Part
from zoplat.core.device import Session
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.input_directions import LossAndRows, Rows, merged
from zoplat.core.losses import Number
from zoplat.evaluation.predictions import predict
from zoplat.tasks.metrics import Judge, Metric


@dataclass(frozen=True)
class Objective:
    """A batch loss, computed in micro-batches at the same θ.

    Attributes:
        metric: the loss is one minus this score; the session's own loss when None.
        micro_batch: rows in one forward pass; the whole batch when None.
        judge: the loss is one minus what this says of the model itself, as it is exported to a folder.
    """

    metric: Metric | None = None
    micro_batch: int | None = None
    judge: Judge | None = None

    def check(self, session: Session) -> None:
        """Raise ZoplatError where a session has no perturbed weights that a judge could be given."""
        if self.judge and session.space.restore == "exact":
            raise ZoplatError(
                "--objective adapter:… is given weights as they are stored, and exact restore never stores perturbed "
                "ones. Use -o device.restore=in-place, with --dtype float32 where weights would have 16 bits."
            )

    def is_plain(self, rows: Sequence[Row]) -> bool:
        """Whether the loss of a batch is the session's own, by one forward pass."""
        return not (self.metric or self.judge) and (self.micro_batch is None or self.micro_batch >= len(rows))

    def loss(self, session: Session, rows: Sequence[Row]) -> Number:
        """Loss of a batch at the weights that the arrays hold now, as `Session.forward` gives it."""
        if self.judge:
            return self._judged(self.judge, session, rows)
        if self.metric:
            predictions = [text for some in self._split(rows) for text in predict(session, some)]
            if None in predictions:  # like any loss of a batch in which a row has none
                return nan
            return 1.0 - self.metric([text or "" for text in predictions], [row.example.right for row in rows])
        [loss] = self._mean(rows, lambda some: [session.forward(some)])
        return loss

    def bare_loss(self, session: Session, rows: Sequence[Row]) -> float:
        """Loss of a batch at what the arrays hold, no perturbation added; recorded where the passes of a step are."""
        perturbation = session.space.perturbation
        session.space.perturb(ZERO)
        with session.together(nullcontext) if self.is_plain(rows) else nullcontext():
            loss = self.loss(session, rows)
        session.space.perturb(perturbation)
        return float(loss)

    def losses(self, session: Session, rows: Sequence[Row], directions: Sequence[Direction]) -> list[Number]:
        """L(θ + d) for each direction d, by the batched or the streaming strategy."""
        return self._mean(rows, lambda some: session.losses_at(some, directions))

    def row_losses(self, session: Session, rows: Sequence[Row]) -> list[Number]:
        """Loss of each row by itself, at the weights that the arrays hold now."""
        if self.metric:
            predictions = [text for some in self._split(rows) for text in predict(session, some)]
            return [
                nan if text is None else 1.0 - self.metric([text], [row.example.right])
                for text, row in zip(predictions, rows, strict=True)
            ]
        return [loss for some in self._split(rows) for loss in session.row_losses(some)]

    def row_losses_at(
        self, session: Session, rows: Sequence[Row], points: Sequence[Sequence[Direction]]
    ) -> list[list[Number]]:
        """Loss of each row by itself at a θ + d of its own, at each point, by the batched or the streaming strategy."""
        size = self.micro_batch or len(rows)
        found: list[list[Number]] = [[] for _ in points]
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            for row, losses in zip(found, session.row_losses_at(rows[some], [p[some] for p in points]), strict=True):
                row += losses
        return found

    def jvp(self, session: Session, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        """Loss at θ and its derivative along a direction."""
        loss, derivative = self._mean(rows, lambda some: session.jvp(some, direction))
        return loss, derivative

    def gradient(
        self, session: Session, rows: Sequence[Row], part: Part, recompute: bool
    ) -> tuple[float, dict[str, Array]]:
        """Loss at θ and its gradient for each block of a part."""
        batches = self._split(rows)
        if len(batches) == 1:
            return session.gradient(rows, part, recompute)
        loss = 0.0
        total: dict[str, Array] = {}
        for some, share in zip(batches, shares(batches), strict=True):
            own, arrays = session.gradient(some, part, recompute)
            loss += share * own
            total = {name: share * array + total.get(name, 0) for name, array in arrays.items()}
        return loss, total

    def input_norms(self, session: Session, rows: Sequence[Row]) -> dict[str, list[float]]:
        """For each matrix of a linear layer, the norm over the batch of each input feature."""
        found = [session.input_norms(some) for some in self._split(rows)]
        return {
            name: [sqrt(sum(x * x for x in each)) for each in zip(*(norms[name] for norms in found), strict=True)]
            for name in found[0]
        }

    def input_directions(self, session: Session, rows: Sequence[Row], rank: int, rounds: int) -> LossAndRows:
        """Loss at θ, and for each matrix of a linear layer the leading directions of its inputs, as of a session."""
        parts: list[Mapping[str, Rows]] = []

        def compute(some: Sequence[Row]) -> list[float]:
            loss, found = session.input_directions(some, rank, rounds)
            parts.append(found)
            return [loss]

        [loss] = self._mean(rows, compute)
        return loss, merged(parts)

    @staticmethod
    def _judged(judge: Judge, session: Session, rows: Sequence[Row]) -> float:
        """One minus the score of the model as the arrays have it now."""
        with TemporaryDirectory(prefix="zoplat-") as folder:
            session.export(Path(folder, "model"))
            return 1.0 - judge(Path(folder, "model"), [row.example for row in rows])

    def _split(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        size = self.micro_batch or len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _mean(self, rows: Sequence[Row], compute: Callable[[Sequence[Row]], Sequence[Any]]) -> list[Any]:
        """Means over the batch from means over its micro-batches."""
        batches = self._split(rows)
        values = [compute(some) for some in batches]
        if len(batches) == 1:
            return list(values[0])
        parts = shares(batches)
        return [sum(share * x for share, x in zip(parts, each, strict=True)) for each in zip(*values, strict=True)]


def shares(batches: Sequence[Sequence[Row]]) -> list[float]:
    """Weight of each micro-batch in the mean: its share of the examples, or of the tokens where those are averaged."""
    weights = [sum(row.weight for row in some) for some in batches]
    return [weight / sum(weights) for weight in weights]
