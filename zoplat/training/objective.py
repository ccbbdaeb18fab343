"""What training descends: the model's own loss, or one minus a score that needs no derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from zoplat.core.blocks import Part
from zoplat.core.device import Session
from zoplat.core.direction import Direction
from zoplat.core.example import Row
from zoplat.evaluation.predictions import predict
from zoplat.tasks.metrics import Metric


@dataclass(frozen=True)
class Objective:
    """What one batch has to say, in as many forward passes as memory asks for; the same θ for all of them.

    Attributes:
        metric: the loss is one minus its score; the session's own loss when None.
        at_once: rows that the model reads at a time; all when None.
    """

    metric: Metric | None = None
    at_once: int | None = None

    def loss(self, session: Session, rows: Sequence[Row]) -> Any:
        """Loss of a batch at the weights as they stand; a number as `Session.forward` gives it."""
        if self.metric:
            predicted = [text for part in self._parts(rows) for text in predict(session, part)]
            return 1.0 - self.metric(predicted, [row.example.right for row in rows])
        [loss] = self._mean(rows, lambda part: [session.forward(part)])
        return loss

    def losses(self, session: Session, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d by the batched strategy."""
        return self._mean(rows, lambda part: session.losses_at(part, directions))

    def jvp(self, session: Session, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        """Loss at θ and its derivative along a direction."""
        loss, derivative = self._mean(rows, lambda part: session.jvp(part, direction))
        return loss, derivative

    def gradient(
        self, session: Session, rows: Sequence[Row], part: Part, recompute: bool
    ) -> tuple[float, dict[str, Any]]:
        """Loss at θ and its gradient by block."""
        parts = self._parts(rows)
        if len(parts) == 1:
            return session.gradient(rows, part, recompute)
        loss = 0.0
        total: dict[str, Any] = {}
        for some, share in zip(parts, _shares(parts), strict=True):
            own, arrays = session.gradient(some, part, recompute)
            loss += share * own
            total = {name: share * array + total.get(name, 0) for name, array in arrays.items()}
        return loss, total

    def input_norms(self, session: Session, rows: Sequence[Row]) -> dict[str, list[float]]:
        """By block, the norm over the batch of every input of its layer."""
        told = [session.input_norms(part) for part in self._parts(rows)]
        return {
            name: [sqrt(sum(x * x for x in each)) for each in zip(*(norms[name] for norms in told), strict=True)]
            for name in told[0]
        }

    def _parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        size = self.at_once or len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _mean(self, rows: Sequence[Row], ask: Callable[[Sequence[Row]], Sequence[Any]]) -> list[Any]:
        """Means over the batch from means over its parts."""
        parts = self._parts(rows)
        told = [ask(part) for part in parts]
        if len(parts) == 1:
            return list(told[0])
        return [
            sum(share * x for share, x in zip(_shares(parts), each, strict=True)) for each in zip(*told, strict=True)
        ]


def _shares(parts: Sequence[Sequence[Row]]) -> list[float]:
    """What each part counts for in the mean: by examples, or by tokens where each token counts."""
    weights = [sum(row.weight for row in part) for part in parts]
    return [weight / sum(weights) for weight in weights]
