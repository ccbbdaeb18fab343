"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoplat.training.summary import Summary


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        summary: the content of summary.json.
        directory: the run directory.
    """

    summary: Summary
    directory: Path

    @property
    def score(self) -> float:
        """Metric on the test split after training."""
        return self.summary.test_after

    @property
    def passes(self) -> int:
        """Forward passes of training."""
        return self.summary.forward_passes
