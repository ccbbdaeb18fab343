"""What a run comes to beyond its scores: whether the loss fell, and what a step cost over its forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def overhead(steps: Sequence[tuple[float, float, int]]) -> float | None:
    """Seconds of a step over passes × seconds of a bare forward pass on its batch; median of the sampled steps."""
    ratios = [taken / (bare * passes) for taken, bare, passes in steps if passes]
    return round(median(ratios), 4) if ratios else None


def verdict(losses: Sequence[float]) -> str:
    """One of "falling", "flat" and "rising": first against last fifth of the losses seen, two standard errors apart."""
    part = len(losses) // 5
    if part < 4:
        return "too short to say"
    first, last = losses[:part], losses[-part:]
    means = [sum(group) / part for group in (first, last)]
    squares = [sum((x - m) ** 2 for x in g) / (part - 1) for g, m in zip((first, last), means, strict=True)]
    error = math.sqrt(sum(squares) / part)
    difference = means[1] - means[0]
    return "flat" if abs(difference) <= 2 * error else "falling" if difference < 0 else "rising"
