"""The step-size rule: how an estimate becomes a change of θ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from zoplat.core.estimate import Estimate
from zoplat.core.fields import Checked, number
from zoplat.core.oracle import Oracle
from zoplat.core.sampler import Sampler
from zoplat.core.search import Around
from zoplat.space.parameter_space import ParameterSpace

State = TypeVar("State")
"""What a rule or an estimator keeps between steps; None for one that keeps nothing."""


class StepRule(Checked, ABC, Generic[State]):
    """A frozen dataclass whose fields are the rule's settings."""

    @property
    def moves_alike(self) -> bool:
        """Whether every entry of θ moves by exactly η or not at all."""
        return False

    @property
    def has_horizon(self) -> bool:
        """Whether the rule must know how long the run is (`--steps` or `--max-passes`)."""
        return False

    def init(self, space: ParameterSpace) -> State:
        """Allocate state from the space; see `Estimator.init`."""
        return None  # type: ignore[return-value]  # State is None for whoever does not override this

    def init_for(self, space: ParameterSpace, law: Sampler | None) -> State:
        """Allocate state for estimates along draws of a law; None where they are no draws of one.

        A rule whose state depends on the law, on its rank for instance, overrides this in place of `init`.
        """
        return self.init(space)

    def rate(self, oracle: Oracle) -> float | None:
        """η at this step, for the journal; None where the rule has no such number."""
        return None

    @abstractmethod
    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        """Change θ, through oracle.space only."""


@dataclass(frozen=True)
class Schedule(StepRule[None]):
    """θ ← (1 − ηλ)θ − ηĝ, with η following a curve over the run after a linear warm-up.

    Attributes:
        lr: largest step size η; not negative.
        warmup: steps over which η rises from 0; step t of them uses (t + 1)/warmup of it.
        decay: weight decay λ, on matrices only; not negative.
    """

    lr: float = number(1e-6, at_least=0, search=Around(10))
    warmup: int = number(0, at_least=0)
    decay: float = number(0.0, at_least=0)

    @abstractmethod
    def curve(self, progress: float) -> float:
        """η/lr once a share `progress` in [0, 1) of the run's budget is spent."""

    def rate(self, oracle: Oracle) -> float:
        """η at this step: min(rise, curve) of the full rate."""
        rise = (oracle.step + 1) / self.warmup if oracle.step < self.warmup else 1.0
        return self.lr * min(rise, self.curve(oracle.progress or 0.0))

    def apply(self, estimate: Estimate, oracle: Oracle, state: None) -> None:
        """Remember the move −η·ĝ and the decay ηλ."""
        lr = self.rate(oracle)
        oracle.space.add(-lr * estimate.direction, decay=lr * self.decay)


@dataclass(frozen=True)
class Scheduled(StepRule[State]):
    """A rule that follows the step size of another: its `schedule`.

    Attributes:
        schedule: η over the run, and the weight decay λ.
    """

    schedule: Schedule

    @property
    def has_horizon(self) -> bool:
        return self.schedule.has_horizon

    def rate(self, oracle: Oracle) -> float:
        return self.schedule.rate(oracle)
