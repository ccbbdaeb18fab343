"""What a model predicts: the best option of each row, or the text it generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from zoplat.core.device import Session
from zoplat.core.example import Row

T = TypeVar("T")


def predict(session: Session, rows: Sequence[Row]) -> list[str]:
    """One prediction per row of a batch: the best option (the first of equals), or the generated text."""
    if rows[0].example.is_open:
        return session.generate(rows, rows[0].example.length, rows[0].example.stop)
    return [row.example.best(scores) for row, scores in zip(rows, session.scores(rows), strict=True)]


def predictions(session: Session, rows: Sequence[Row], size: int) -> list[str]:
    """Predictions for all rows in their order, computed in batches of at most `size` rows of similar length."""
    return in_batches(lambda batch: predict(session, batch), rows, size)


def in_batches(compute: Callable[[list[Row]], Sequence[T]], rows: Sequence[Row], size: int) -> list[T]:
    """Results of `compute`, one per row and in the order of the rows, from batches of similar length."""
    results: dict[int, T] = {}
    for batch in by_length(rows, size):
        results |= zip(batch, compute([rows[i] for i in batch]), strict=True)
    return [results[i] for i in range(len(rows))]


def by_length(rows: Sequence[Row], size: int) -> list[list[int]]:
    """Indices of all rows in batches of similar length, longest first."""
    indices = sorted(range(len(rows)), key=lambda i: -rows[i].length)
    return [indices[i : i + size] for i in range(0, len(indices), size)]
