"""What a run came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        summary: the content of summary.json.
        directory: the run directory.
    """

    summary: dict[str, Any]
    directory: Path

    @property
    def score(self) -> float:
        """Metric on the test split after training."""
        return float(self.summary["test_after"])

    @property
    def passes(self) -> int:
        """Forward passes that training asked for."""
        return int(self.summary["forward_passes"])
