"""θ and the states that move with it, one step at a time: with the model, or from a journal without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.blocks import Part
from zoplat.core.device import Session
from zoplat.core.direction import Direction
from zoplat.core.errors import SkipStep, ZoplatError
from zoplat.core.example import Row
from zoplat.core.losses import LossBackend, Number, RecordedLosses, in_blocks
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.space.parameter_space import ParameterSpace
from zoplat.training.batches import Batches
from zoplat.training.journal import StepRecord
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.progress import Progress


class LiveLosses(LossBackend):
    """A session and the batch it is asked about.

    Args:
        learner: how far the run is; has the session and what it is asked for.
        batches: where other batches come from.
        profiler: is told of every pass.
        rows: of the batch; those of the step when None.
    """

    def __init__(
        self, learner: Learner, batches: Batches, profiler: Profiler, rows: Sequence[Row] | None = None
    ) -> None:
        self.learner, self.batches, self.profiler = learner, batches, profiler
        self.session, self.objective, self.step = learner.session, learner.objective, learner.progress.step
        self.rows = batches.at(self.step) if rows is None else rows
        self.strategy = learner.strategy

    def forward(self) -> Number:
        with self.profiler.phase("forward"):
            return self.objective.loss(self.session, self.rows)

    def known(self, answers: Sequence[Number]) -> list[float]:
        if all(isinstance(answer, float) for answer in answers):
            return [*answers]
        with self.profiler.phase("forward"):
            return super().known(answers)

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        with self.profiler.phase("forward"):
            return self.objective.losses(self.session, self.rows, directions)

    def jvp(self, direction: Direction) -> tuple[float, float]:
        with self.profiler.phase("forward"):
            return self.objective.jvp(self.session, self.rows, direction)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        with self.profiler.phase("gradient"):
            return self.objective.gradient(self.session, self.rows, part, recompute)

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        with self.profiler.phase("forward"):
            return in_blocks(space, self.objective.input_norms(self.session, self.rows))

    def on_batch(self, index: int) -> LossBackend:
        return LiveLosses(self.learner, self.batches, self.profiler, self.batches.auxiliary(self.step, index))


@dataclass
class Learner:
    """θ and the states that move with it: all that a journal rebuilds.

    Attributes:
        config: the run.
        session: has θ.
        objective: what training descends.
        progress: how far it is.
        strategy: how losses that are asked together are found: what a journal says, or the session's usual one when empty;
            texts and scores only by walking.
        reason: why the last step that was skipped was.
    """

    config: RunConfig
    session: Session
    objective: Objective = Objective()
    progress: Progress = field(default_factory=Progress)
    strategy: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        space, estimator = self.session.space, self.config.estimator
        self.states = {"estimator": estimator.init(space), "rule": estimator.rule.init_for(space, estimator.law)}
        self.seed = derived_seed(self.config.seed, "noise")
        self.strategy = "sequential" if self.config.is_judged else self.strategy or self.session.strategy

    def replay(self, record: StepRecord) -> None:
        """The step of a journal, without its forward passes."""
        oracle = Oracle(*self._place(), RecordedLosses(record.step, record.answers, self.strategy))
        self._apply(oracle)
        if len(oracle.answers) != len(record.answers):
            raise ZoplatError(
                f"The journal has {len(record.answers)} answers for step {record.step}, the estimator asked for "
                f"{len(oracle.answers)}. It was made with another estimator or another version of it."
            )

    def advance(self, batches: Batches, profiler: Profiler) -> StepRecord:
        """One step with the model."""
        oracle = Oracle(*self._place(), LiveLosses(self, batches, profiler))
        self._apply(oracle)
        return StepRecord(oracle.step, oracle.answers, self.config.estimator.rule.rate(oracle), oracle.loss)

    def settles(self) -> bool:
        """Whether weights are read after the step just made: rounding depends on it, so it is a matter of config."""
        return self.progress.step % (self.config.evaluate_every or 1) == 0

    def _place(self) -> tuple[ParameterSpace, Key, float | None]:
        key = Key(self.seed, self.progress.step, -1)
        return self.session.space, key, self.progress.share(self.config)

    def _apply(self, oracle: Oracle) -> None:
        estimator = self.config.estimator
        if self.settles():  # the weights were just looked at
            self.session.space.mark_changes()
        try:
            for estimate in estimator.estimate(oracle, self.states["estimator"]):
                estimator.rule.apply(estimate, oracle, self.states["rule"])
        except SkipStep as problem:
            self.progress.skipped += 1
            self.reason = str(problem)
        self.progress.step += 1
        self.progress.passes += oracle.passes
        if self.settles():
            self.session.space.settle()
