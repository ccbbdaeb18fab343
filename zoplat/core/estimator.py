"""The algorithm box: asks the oracle, yields estimates of the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from zoplat.core.estimate import Estimate
from zoplat.core.oracle import Oracle
from zoplat.core.rule import Cost, StepRule
from zoplat.space.parameter_space import ParameterSpace


class Estimator(ABC):
    """An algorithm. A frozen dataclass: its fields are hyperparameters, `rule` and mostly `sampler` among them."""

    rule: StepRule

    @property
    def asks(self) -> frozenset[str]:
        """What it wants of a device: some of "losses", "jvp", "gradient" and "input norms"."""
        return frozenset({"losses"})

    @property
    def bias(self) -> str:
        """Why the mean of an estimate is not ∇L even on a quadratic; empty where it is."""
        return ""

    @property
    def has_horizon(self) -> bool:
        """Whether it must know how long the run is (`--steps` or `--max-passes`); a rule says so for itself."""
        return False

    def cost(self) -> Cost:
        """What its questions and its state take; the rule's share is the rule's own."""
        return Cost()

    def init(self, space: ParameterSpace) -> Any:
        """Allocate state from the space; None when there is none.

        State is a dataclass of `Buffer`s, numbers, strings, `Direction`s, such dataclasses, and lists of them: what a
        checkpoint can hold.
        """
        return None

    @abstractmethod
    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        """Yield estimates for one batch. Each is applied before the generator resumes."""
