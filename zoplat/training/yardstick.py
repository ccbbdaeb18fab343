"""What a step costs over its forward passes, measured on a few steps of a run."""

from __future__ import annotations

from statistics import median

SAMPLES = 16
"""Steps of a run that are measured."""
DEFAULT_LENGTH = 64 * SAMPLES
"""Steps over which the samples are spread where the number of steps is not known beforehand."""


class Yardstick:
    """The overhead ratio: seconds of a step over passes × seconds of a bare forward pass on the same batch.

    Args:
        steps: of the run; None if they are not known beforehand.
    """

    def __init__(self, steps: int | None) -> None:
        self._interval = max(1, (steps or DEFAULT_LENGTH) // SAMPLES)
        self._ratios: list[float] = []

    def is_due(self, step: int) -> bool:
        """Whether this step is one to measure."""
        return step % self._interval == self._interval // 2

    def add(self, seconds: float, bare: float, passes: int) -> None:
        """Enter a step: its seconds, those of a bare forward pass, and how many passes the step made."""
        if passes:
            self._ratios.append(seconds / (bare * passes))

    @property
    def overhead(self) -> float | None:
        """Median of the ratios, 1 where a step costs no more than its forward passes; None without a sample."""
        return round(median(self._ratios), 4) if self._ratios else None
