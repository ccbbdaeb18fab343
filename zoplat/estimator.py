"""The algorithm box: asks the oracle, yields estimates of the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoplat.direction import Direction
from zoplat.oracle import Oracle
from zoplat.rule import StepRule
from zoplat.sampler import Sampler
from zoplat.space import ParameterSpace


@dataclass(frozen=True)
class Estimate:
    """One estimate of ∇L.

    Attributes:
        direction: the estimate, as names.
        losses: what was seen on the way, in the order asked.
        eps: radius at which it was seen.
    """

    direction: Direction
    losses: Sequence[float] = ()
    eps: float = 0.0


class Estimator(ABC):
    """An algorithm. A frozen dataclass: its fields are hyperparameters, `sampler` and `rule` among them."""

    asks: ClassVar[frozenset[str]] = frozenset({"losses"})
    sampler: Sampler
    rule: StepRule

    def init(self, space: ParameterSpace) -> Any:
        """Allocate state from the space; None when there is none.

        State is a dataclass of `Buffer`s, numbers, strings and lists of them: what a checkpoint can hold.
        """
        return None

    @abstractmethod
    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        """Yield estimates for one batch. Each is applied before the generator resumes."""
