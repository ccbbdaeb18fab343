"""Forward passes as the model makes them, whoever asks for them, beside those that the oracle has counted.

A method gets its losses from the oracle, which counts. What it computes with the model in another way is counted here,
and so are rows that are not the run's training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, cast

from zoplat.core.device import Session
from zoplat.core.example import Row
from zoplat.core.oracle import GRADIENT_PASSES, JVP_PASSES, RECOMPUTED_PASSES

COST: dict[str, Callable[..., int]] = {
    **dict.fromkeys(
        ("forward", "row_losses", "input_norms", "input_directions", "scores", "generate", "features"),
        lambda rows, *_: 1,
    ),
    "losses_at": lambda rows, directions: len(directions),
    "row_losses_at": lambda rows, points: len(points),
    "jvp": lambda rows, direction: JVP_PASSES,
    "gradient": lambda rows, part, recompute: RECOMPUTED_PASSES if recompute else GRADIENT_PASSES,
}
"""What of a session runs the model on rows → forward passes that this counts for, by its arguments."""


@dataclass
class Meter:
    """Counts what a model computes in the steps of a run.

    Attributes:
        outside: forward passes of a batch that the model made and the oracle did not count, or counted and the model
            did not make.
        foreign: rows that the model read in steps and that are not among the training rows.
    """

    outside: float = 0.0
    foreign: int = 0
    _rows: float = field(default=0.0, repr=False)
    _known: frozenset[int] = field(default=frozenset(), repr=False)

    def watching(self, session: Session, rows: Sequence[Row]) -> Session:
        """A session that counts here; all else is that of the session itself.

        Args:
            session: of the run.
            rows: those that training may read, as they are encoded.
        """
        self._known = frozenset(map(id, rows))
        return cast(Session, _Watched(session, self))

    def read(self, rows: Sequence[Row], passes: int) -> None:
        """The model reads some rows so many times."""
        self._rows += passes * len(rows)
        self.foreign += sum(id(row) not in self._known for row in rows)

    def step(self, passes: int, batch_size: int) -> bool:
        """A step is over.

        Args:
            passes: forward passes that the oracle counted.
            batch_size: rows in each of them.

        Returns:
            Whether the model made the same.
        """
        apart = abs(self._rows / batch_size - passes)
        self.outside, self._rows = self.outside + apart, 0.0
        return apart == 0


class _Watched:
    """A session whose forward passes are counted."""

    def __init__(self, session: Session, meter: Meter) -> None:
        self._session, self._meter = session, meter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._session, name)
        return self._counted(value, COST[name]) if name in COST else value

    def _counted(self, function: Callable[..., Any], cost: Callable[..., int]) -> Callable[..., Any]:
        @wraps(function)
        def counted(rows: Sequence[Row], *arguments: Any) -> Any:
            self._meter.read(rows, cost(rows, *arguments))
            return function(rows, *arguments)

        return counted
