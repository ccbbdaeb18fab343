"""One training step at a time: with the model, or replayed from a journal without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.device import Session
from zoplat.core.errors import SkipStep, ZoplatError
from zoplat.core.exchange import Exchange
from zoplat.core.losses import LossBackend, RecordedLosses
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.space.parameter_space import ParameterSpace
from zoplat.training.batches import Batches
from zoplat.training.journal import StepRecord
from zoplat.training.live_losses import LiveLosses
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.progress import Progress
from zoplat.training.shared_losses import shared

MAX_SKIPPED = 20
"""Steps that may be skipped one after the other before a run is given up."""


class HasSpace(Protocol):
    """What a step needs of a session.

    Attributes:
        strategy: how several losses are evaluated where nothing else is said.
    """

    strategy: str

    @property
    def space(self) -> ParameterSpace:
        """θ."""


@dataclass
class Learner:
    """Everything that a step changes: θ, the states of the estimator and its rule, and the progress.

    Attributes:
        config: the settings of the run.
        session: the open model, which has θ; whoever computes the losses needs no more of it than that.
        objective: the loss that training minimises.
        progress: of the run.
        strategy: how several losses are evaluated: what a journal says, the session's default when empty. An objective
            that is a score is always evaluated sequentially.
        tokens_of: tokens of the batch of a step, or of one of its auxiliary batches, by number; None where the rows are
            not there, and tokens are not counted.
        exchange: the ranks that compute losses together; None where this process is alone.
        skip_reason: why the newest skipped step was skipped; empty if there is none.
        slopes: projected gradients of the newest step.
        states: state by name, "estimator" and "rule".
        seed: of the random directions.
    """

    config: RunConfig
    session: HasSpace
    objective: Objective = Objective()
    progress: Progress = field(default_factory=Progress)
    strategy: str = ""
    tokens_of: Callable[[int, int | None], int] | None = None
    exchange: Exchange | None = None
    skip_reason: str = field(default="", init=False)
    slopes: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        space, estimator = self.session.space, self.config.estimator
        if estimator.law:
            space.check_law(estimator.law)
        self.states = {"estimator": estimator.init(space), "rule": estimator.rule.init_for(space, estimator.law)}
        self.seed = derived_seed(self.config.seed, "noise")
        self.strategy = "sequential" if self.config.is_judged else self.strategy or self.session.strategy

    @property
    def is_checkpoint_step(self) -> bool:
        """Whether θ is evaluated and saved after the steps made so far.

        It is settled then, and rounding depends on when: so this is decided by the config alone.
        """
        return self.progress.step % (self.config.evaluate_every or 1) == 0

    def advance(self, batches: Batches, profiler: Profiler) -> StepRecord:
        """Make one step with the model.

        Args:
            batches: the training rows.
            profiler: measures every pass.
        """
        step, session = self.progress.step, cast(Session, self.session)
        live = LiveLosses(session, self.objective, batches, profiler, step, batches.at(step), self.strategy)
        return self.make(shared(live, self.exchange, self.config.parallel) if self.exchange else live)

    def make(self, losses: LossBackend) -> StepRecord:
        """Make one step with losses that are computed anywhere.

        Args:
            losses: of the batch of this step.
        """
        oracle = self._oracle(losses)
        self._step(oracle)
        return StepRecord(oracle.step, oracle.answers, self.config.estimator.rule.rate(oracle), oracle.loss)

    def replay(self, record: StepRecord) -> None:
        """Make the step of a journal again, without a forward pass.

        Raises:
            ZoplatError: the estimator asks for fewer or more answers than are on record.
        """
        oracle = self._oracle(RecordedLosses(record.step, record.answers, self.strategy))
        self._step(oracle)
        if len(oracle.answers) != len(record.answers):
            raise ZoplatError(
                f"The journal has {len(record.answers)} answers for step {record.step}, the estimator asked for "
                f"{len(oracle.answers)}. It was made with another estimator or another version of it."
            )

    def _oracle(self, losses: LossBackend) -> Oracle:
        key = Key(self.seed, self.progress.step, -1)
        return Oracle(self.session.space, key, self.progress.share(self.config), losses)

    def _step(self, oracle: Oracle) -> None:
        estimator, space = self.config.estimator, self.session.space
        if self.is_checkpoint_step:
            space.mark_changes()
        self.slopes = []
        try:
            for estimate in estimator.estimate(oracle, self.states["estimator"]):
                self.slopes += estimate.slopes
                estimator.apply(estimate, oracle, self.states["rule"])
            reason = oracle.left_out
        except SkipStep as problem:
            reason = str(problem)
        if reason and not oracle.applied:
            self.progress.skipped += 1
            self.skip_reason = reason
        if self.tokens_of and self.progress.tokens is not None:
            asked = oracle.passes_by_batch.items()
            self.progress.tokens += sum(passes * self.tokens_of(oracle.step, batch) for batch, passes in asked)
        self.progress.step += 1
        self.progress.passes += oracle.passes
        if self.is_checkpoint_step:
            space.settle()
