"""The step-size rule: how an estimate becomes a change of θ."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from zoplat.core.errors import ZoplatError
from zoplat.core.estimate import Estimate
from zoplat.core.oracle import Oracle
from zoplat.space.parameter_space import ParameterSpace


def no_state(shape: tuple[int, ...]) -> float:
    """Bytes kept between steps for a block of this shape: none."""
    return 0.0


def numbers(each: float = 1.0) -> Callable[[tuple[int, ...]], float]:
    """Bytes kept between steps where a part keeps `each` float32 numbers for every weight."""
    return lambda shape: 4 * each * math.prod(shape)


Amount: TypeAlias = "float | Callable[[ParameterSpace], float]"
"""A number, or one that depends on how a space is divided into blocks."""


@dataclass(frozen=True)
class Cost:
    """What a step takes, on average over a long run.

    Attributes:
        passes: forward passes; a derivative counts as in `Oracle`.
        moves: passes over θ, by walking with the weights changed in place.
        state: shape of a block → bytes kept for it between steps, in memory.
    """

    passes: Amount = 0.0
    moves: Amount = 0.0
    state: Callable[[tuple[int, ...]], float] = no_state

    def counts(self, space: ParameterSpace) -> tuple[float, float]:
        """Passes and moves in a given space."""
        return _counted(self.passes, space), _counted(self.moves, space)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            _sum(self.passes, other.passes),
            _sum(self.moves, other.moves),
            lambda shape: self.state(shape) + other.state(shape),
        )


def _counted(amount: Amount, space: ParameterSpace) -> float:
    return amount(space) if callable(amount) else amount


def _sum(one: Amount, other: Amount) -> Amount:
    if callable(one) or callable(other):
        return lambda space: _counted(one, space) + _counted(other, space)
    return one + other


class StepRule(ABC):
    """A frozen dataclass whose fields are the rule's settings."""

    @property
    def moves_alike(self) -> bool:
        """Whether every entry of θ moves by exactly η or not at all."""
        return False

    @property
    def has_horizon(self) -> bool:
        """Whether the rule must know how long the run is (`--steps` or `--max-passes`)."""
        return False

    @property
    def settles(self) -> bool:
        """Whether the arrays hold θ once it was applied, as they do after a sweep: the next look at θ is then free."""
        return False

    def cost(self) -> Cost:
        """What the rule adds to a step."""
        return Cost()

    def init(self, space: ParameterSpace) -> Any:
        """Allocate state from the space; see `Estimator.init`."""
        return None

    def rate(self, oracle: Oracle) -> float | None:
        """η at this step, for the journal; None where the rule has no such number."""
        return None

    @abstractmethod
    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        """Change θ, through oracle.space only."""


@dataclass(frozen=True)
class Schedule(StepRule):
    """θ ← (1 − ηλ)θ − ηĝ, with η following a curve over the run after a linear warm-up.

    Attributes:
        lr: largest step size η; not negative.
        warmup: steps over which η rises from 0; step t of them uses (t + 1)/warmup of it.
        decay: weight decay λ, on matrices only; not negative.
    """

    lr: float = 1e-6
    warmup: int = 0
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "warmup", "decay"):
            if not getattr(self, name) >= 0:
                raise ZoplatError(f"{name} must be 0 or more, got {getattr(self, name)}  (-o rule.{name}=…)")

    @abstractmethod
    def curve(self, progress: float) -> float:
        """η/lr once a share `progress` in [0, 1) of the run's budget is spent."""

    def rate(self, oracle: Oracle) -> float:
        """η at this step: min(rise, curve) of the full rate."""
        rise = (oracle.step + 1) / self.warmup if oracle.step < self.warmup else 1.0
        return self.lr * min(rise, self.curve(oracle.progress or 0.0))

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        """Remember the move −η·ĝ and the decay ηλ."""
        lr = self.rate(oracle)
        oracle.space.add(-lr * estimate.direction, decay=lr * self.decay)


@dataclass(frozen=True)
class Scheduled(StepRule):
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
