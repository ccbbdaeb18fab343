"""The algorithm box: asks the oracle, yields estimates of the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic

from zoplat.core.errors import NonFinite, SkipStep
from zoplat.core.estimate import Estimate
from zoplat.core.fields import Checked
from zoplat.core.oracle import Oracle
from zoplat.core.rule import State, StepRule
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace


class Estimator(Checked, ABC, Generic[State]):
    """An algorithm. A frozen dataclass: its fields are hyperparameters, `rule` and mostly `sampler` among them.

    Those that most methods have are explained here and not again in each of them.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive.
        queries: directions n that a step averages over; from 1 to a million.
        sampler: law of z, the random directions.
        rule: how the estimates become steps.
    """

    rule: StepRule[Any]

    @property
    def asks(self) -> frozenset[str]:
        """What it wants of a device; some of what `Device.answers` may name, such as "losses" and "gradient"."""
        return frozenset({"losses"})

    @property
    def bias(self) -> str:
        """Why the mean of an estimate is not ∇L even on a quadratic; empty where it is."""
        return ""

    @property
    def noise_multiplier(self) -> float | None:
        """How well a step hides each training row; None for a method that does not promise to.

        It is the standard deviation of the secret noise that a step adds to what it learns of its batch, divided by the
        most by which that changes where one row is replaced by any other. All else that a step does with its rows must
        be made of the noisy numbers alone.
        """
        return None

    @property
    def has_one_radius(self) -> bool:
        """Whether all weights must be probed at one ε.

        So it is where a method makes anything else of its directions than an estimate that is a sum of slopes times
        directions: a weight that is probed at r times ε has r in its directions, and only the estimate is corrected.
        """
        return False

    @property
    def has_horizon(self) -> bool:
        """Whether it must know how long the run is (`--steps` or `--max-passes`); a rule says so for itself."""
        return False

    @property
    def law(self) -> Sampler | None:
        """What its directions are drawn from: the field `sampler`; None where there is none."""
        return getattr(self, "sampler", None)

    def init(self, space: ParameterSpace) -> State:
        """Allocate state from the space; None when there is none.

        State is a dataclass of `Buffer`s, numbers, strings, `Direction`s, such dataclasses, and lists of them: what a
        checkpoint can hold.
        """
        return None  # type: ignore[return-value]  # State is None for whoever does not override this

    @abstractmethod
    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        """Yield estimates for one batch. The rule applies each, or leaves it out, before the generator resumes."""

    def apply(self, estimate: Estimate, oracle: Oracle, rule_state: Any) -> None:
        """Have the rule apply an estimate; one for which it raises `SkipStep` is left out, and the step goes on.

        Raises:
            NonFinite: a loss that the rule asked for is not finite; that ends the step.
        """
        oracle.left_out = ""
        try:
            self.rule.apply(estimate, oracle, rule_state)
            oracle.applied += 1
        except NonFinite:
            raise
        except SkipStep as problem:
            oracle.left_out = str(problem)
