"""One estimate of the gradient, as names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pstdev, stdev

from zoplat.core.direction import Direction
from zoplat.core.errors import NonFinite, ZoplatError


@dataclass(frozen=True)
class Estimate:
    """One estimate of ∇L.

    Attributes:
        direction: the estimate, as names.
        losses: those that a rule may judge the step by, in the order asked.
        eps: radius at which they were seen; 0 for an exact gradient.
        slopes: projected gradients of the step, one a direction, in units of the loss over units of ε; empty where the
            method has none. Where no direction has several terms, they are in the order of the terms.
        is_shaped: whether the estimate has a length of its own and not that of the slopes: they were divided by their
            spread, ranked, or left out.

    Raises:
        NonFinite: the direction has a coefficient that is not finite; the step ends before a rule sees it.
    """

    direction: Direction
    losses: Sequence[float] = ()
    eps: float = 0.0
    slopes: Sequence[float] = ()
    is_shaped: bool = False

    def __post_init__(self) -> None:
        if not self.direction.is_finite:
            raise NonFinite("The estimate has a coefficient that is not finite.")

    def spread(self, is_population: bool = False) -> float:
        """Standard deviation of the n losses, exact: 0 where all are equal.

        Args:
            is_population: whether the variance has the divisor n in place of n − 1.

        Raises:
            ZoplatError: there are fewer than 2 losses.
        """
        if len(self.losses) < 2:
            raise ZoplatError(
                f"The step rule divides by the spread of at least 2 losses of a step, and this method reports "
                f"{len(self.losses)}. Use another estimator, or another --step-rule."
            )
        return (pstdev if is_population else stdev)(self.losses)

    def own_slopes(self, rule: str) -> Sequence[float]:
        """The slopes, for a rule that divides the estimate by them.

        Args:
            rule: its name, for the message.

        Raises:
            ZoplatError: there are none, or the estimate does not have their length.
        """
        if self.slopes and not self.is_shaped:
            return self.slopes
        found = "one whose length is not that of its slopes" if self.slopes else "one without slopes"
        raise ZoplatError(
            f"{rule} divides an estimate by the slopes that it was made of, and here is {found}. Use an estimator "
            "whose estimates are slopes times directions, such as mezo, or another --step-rule."
        )
