"""What a model answers to a batch."""

from __future__ import annotations

from collections.abc import Sequence

from zoplat.core.device import Session
from zoplat.core.example import Row

LONGEST = 50
"""Tokens of a generated answer at most (arXiv:2305.17333, Appendix E)."""


def answers(session: Session, rows: Sequence[Row]) -> list[str]:
    """What the model answers to a batch: its best option, the first of equals, or the text it writes."""
    if rows[0].example.is_open:
        return session.generate(rows, LONGEST, "\n")
    return [row.example.best(scores) for row, scores in zip(rows, session.scores(rows), strict=True)]


def by_length(rows: Sequence[Row], size: int) -> list[list[int]]:
    """Indices of all rows in batches of similar length, longest first."""
    indices = sorted(range(len(rows)), key=lambda i: -rows[i].length)
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def answered(session: Session, rows: Sequence[Row], size: int) -> list[str]:
    """What the model answers to each row, read in batches of similar length."""
    told = [""] * len(rows)
    for batch in by_length(rows, size):
        for i, answer in zip(batch, answers(session, [rows[i] for i in batch]), strict=True):
            told[i] = answer
    return told
