"""The progress of a run, and its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoplat.config.run_config import RunConfig


@dataclass
class Progress:
    """The progress of a run. A checkpoint has these fields.

    Attributes:
        step: steps done, skipped ones included.
        passes: forward passes of training.
        skipped: steps of which no estimate was applied, for example because a loss was not finite.
        seconds: time spent in steps, evaluations excluded.
        tokens: of the batches, once for each forward pass; None where an earlier version counted none.
        joules: that the machine used in steps, where it tells.
    """

    step: int = 0
    passes: int = 0
    skipped: int = 0
    seconds: float = 0.0
    tokens: int | None = 0
    joules: float = 0.0

    def share(self, config: RunConfig) -> float | None:
        """Share of the budget that is spent, in steps or in passes, the larger one; None without one."""
        spent = [
            done / budget for done, budget in ((self.step, config.steps), (self.passes, config.max_passes)) if budget
        ]
        return max(spent) if spent else None

    def is_over(self, config: RunConfig) -> bool:
        """Whether one of the budgets is used up."""
        others = (
            (self.seconds, config.max_seconds),
            (self.tokens or 0, config.max_tokens),
            (self.joules, config.max_joules),
        )
        return (self.share(config) or 0) >= 1 or any(done >= (budget or math.inf) for done, budget in others)
