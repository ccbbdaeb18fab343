"""θ and the states that move with it, one step at a time: with the model, or from a journal without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from zoplat.batches import derived_seed
from zoplat.device import Row, Session
from zoplat.direction import Key
from zoplat.errors import NonFinite, ZoplatError
from zoplat.journal import StepRecord
from zoplat.oracle import Oracle, RecordedOracle
from zoplat.profiler import Profiler
from zoplat.settings import RunConfig
from zoplat.space import ParameterSpace


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        passes: forward passes that training asked for.
        skipped: steps whose loss was not finite.
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


@dataclass
class Learner:
    """θ and the states that move with it: all that a journal rebuilds."""

    config: RunConfig
    session: Session
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        space, estimator = self.session.space, self.config.estimator
        self.states = {"estimator": estimator.init(space), "rule": estimator.rule.init(space)}
        self.seed = derived_seed(self.config.seed, "noise")

    def replay(self, record: StepRecord) -> None:
        """The step of a journal, without its forward passes."""
        oracle = RecordedOracle(*self._place(), record.answers)
        self._apply(oracle)
        if len(oracle.answers) != len(record.answers):
            raise ZoplatError(
                f"The journal has {len(record.answers)} answers for step {record.step}, the estimator asked for "
                f"{len(oracle.answers)}. It was made with another estimator or another version of it."
            )

    def advance(self, rows: Sequence[Row], profiler: Profiler) -> StepRecord:
        """One step with the model."""

        def forward() -> float:
            with profiler.phase("forward"):
                return self.session.forward(rows)

        oracle = Oracle(*self._place(), forward)
        self._apply(oracle)
        return StepRecord(oracle.step, oracle.answers, self.config.estimator.rule.rate(oracle))

    def settles(self) -> bool:
        """Whether weights are read after the step just made: rounding depends on it, so it is a matter of config."""
        return self.progress.step % (self.config.evaluate_every or 1) == 0

    def _place(self) -> tuple[ParameterSpace, Key, float | None]:
        key = Key(self.seed, self.progress.step, -1)
        return self.session.space, key, self.progress.share(self.config)

    def _apply(self, oracle: Oracle) -> None:
        estimator = self.config.estimator
        try:
            for estimate in estimator.estimate(oracle, self.states["estimator"]):
                estimator.rule.apply(estimate, oracle, self.states["rule"])
        except NonFinite:
            self.progress.skipped += 1
        self.progress.step += 1
        self.progress.passes += len(oracle.answers)
        if self.settles():
            self.session.space.settle()
