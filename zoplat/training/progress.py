"""How far a run is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoplat.config.run_config import RunConfig


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        passes: forward passes that training asked for.
        skipped: steps that could not be made, such as those whose loss was not finite.
        seconds: time spent in training, evaluations excluded.
    """

    step: int = 0
    passes: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def share(self, config: RunConfig) -> float | None:
        """Spent share of the budget as far as it is counted in steps or passes."""
        spent = [
            done / budget for done, budget in ((self.step, config.steps), (self.passes, config.max_passes)) if budget
        ]
        return max(spent) if spent else None

    def is_over(self, config: RunConfig) -> bool:
        """Whether one of the budgets is reached."""
        return (self.share(config) or 0) >= 1 or self.seconds >= (config.max_seconds or math.inf)
