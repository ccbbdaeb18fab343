"""The step-size rule: how an estimate becomes a change of θ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zoplat.errors import ZoplatError
from zoplat.oracle import Oracle
from zoplat.space import ParameterSpace

if TYPE_CHECKING:
    from zoplat.estimator import Estimate


class StepRule(ABC):
    """A frozen dataclass whose fields are the rule's settings.

    Attributes:
        has_horizon: whether the rule must know how long the run is (`--steps` or `--max-passes`).
    """

    has_horizon: ClassVar[bool] = False

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
