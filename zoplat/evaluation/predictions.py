"""What a model predicts: the best option of each row, or the text it generates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from zoplat.core.device import Session
from zoplat.core.errors import RunFailed
from zoplat.core.example import Example, Row
from zoplat.tasks.metrics import Metric

T = TypeVar("T")


def predict(session: Session, rows: Sequence[Row]) -> list[str | None]:
    """One prediction per row of a batch: the best option (the first of equals), or the generated text.

    None for a row whose scores are no numbers: the model has not answered it.
    """
    if rows[0].example.is_open:
        return [*session.generate(rows, rows[0].example.length, rows[0].example.stop)]
    return [best(row.example, scores) for row, scores in zip(rows, session.scores(rows), strict=True)]


def best(example: Example, scores: Sequence[float]) -> str | None:
    """The option with the highest score; None where a score is not a number, or none of them is finite."""
    if any(math.isnan(score) for score in scores) or not any(math.isfinite(score) for score in scores):
        return None
    return example.best(scores)


def score_of(metric: Metric, predicted: Sequence[str | None], examples: Sequence[Example]) -> tuple[float, int]:
    """(score, rows without an answer, which count as wrong).

    Raises:
        RunFailed: no row has an answer, or the metric gives no number.
    """
    unanswered = predicted.count(None)
    if unanswered == len(predicted):
        raise RunFailed(
            f"The scores of all {len(predicted)} rows are not numbers (NaN), so there is nothing to score. The weights "
            "are damaged, or too large for their dtype, or training has driven them off: look at the checkpoint, or "
            "try --dtype float32 or a lower --lr."
        )
    score = metric([text or "" for text in predicted], [example.right for example in examples])
    if not math.isfinite(score):
        raise RunFailed(f"The metric gave {score} for {len(predicted)} rows, which is not a score.")
    return score, unanswered


def unanswered_note(unanswered: int, rows: int) -> str:
    """What to tell the user about rows without an answer."""
    return f"{unanswered} of {rows} rows have scores that are not numbers (NaN); they count as wrong"


def predictions(session: Session, rows: Sequence[Row], size: int) -> list[str | None]:
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
