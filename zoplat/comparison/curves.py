"""How scores rise over passes and seconds: when a target is reached, what a budget gives, who is ahead for less memory.

A curve is a list of (passes or seconds, dev score) in order. Between two evaluations a run has the score of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

Curve = Sequence[tuple[float, float]]
AXES = {"passes": "passes", "seconds": "seconds_training"}
"""What a curve can run over → its key in metrics.jsonl."""


class Band(NamedTuple):
    """Several curves as one: at each `x` their mean, their lowest and their highest score."""

    x: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]


def curve(metrics: Iterable[Mapping[str, Any]], axis: str = "passes", split: str = "dev") -> list[tuple[float, float]]:
    """The curve of a run.

    Args:
        metrics: records of metrics.jsonl.
        axis: "passes" or "seconds"; of seconds, records of earlier versions have none, and are left out.
        split: "dev" or "test".
    """
    own = [record for record in metrics if record["split"] == split]
    return sorted((record[AXES[axis]], record["score"]) for record in own if record.get(AXES[axis]) is not None)


def score_at(points: Curve, budget: float) -> float | None:
    """The newest score at or before so many passes or seconds; None before the first."""
    return next((score for x, score in reversed(points) if x <= budget), None)


def reached(points: Curve, target: float) -> float | None:
    """Passes or seconds at the first evaluation with at least the target; None where none has it."""
    return next((x for x, score in points if score >= target), None)


def band(curves: Sequence[Curve]) -> Band:
    """Mean and range of several curves.

    Where all have as many evaluations, the first of each are one place, the second ones another, at the mean of their
    passes or seconds. Otherwise the places are all those where one was evaluated and all are known.
    """
    if len({len(points) for points in curves}) == 1:
        pairs = [*zip(*curves, strict=True)]
        columns = [[score for _, score in pair] for pair in pairs]
        return _band([fmean(x for x, _ in pair) for pair in pairs], columns)
    first, last = max(points[0][0] for points in curves), min(points[-1][0] for points in curves)
    places = sorted({x for points in curves for x, _ in points if first <= x <= last})
    columns = [[score for points in curves if (score := score_at(points, x)) is not None] for x in places]
    return _band(places, columns)


def _band(places: list[float], columns: list[list[float]]) -> Band:
    return Band(places, [fmean(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns])


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other beats: (score, bytes), of which the first should be high and the second low.

    Returns:
        By bytes, the least first. A point is beaten by one that is as good in both and better in one of them.
    """
    front = [
        name
        for name, (score, size) in points.items()
        if not any(s >= score and b <= size and (s > score or b < size) for s, b in points.values())
    ]
    return sorted(front, key=lambda name: points[name][1])
