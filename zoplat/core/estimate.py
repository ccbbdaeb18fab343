"""One estimate of the gradient, as names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoplat.core.direction import Direction
from zoplat.core.errors import NonFinite


@dataclass(frozen=True)
class Estimate:
    """One estimate of ∇L.

    Attributes:
        direction: the estimate, as names.
        losses: those that a rule may judge the step by, in the order asked.
        eps: radius at which they were seen; 0 for an exact gradient.

    Raises:
        NonFinite: the direction has a coefficient that is not finite; the step is skipped before a rule sees it.
    """

    direction: Direction
    losses: Sequence[float] = ()
    eps: float = 0.0

    def __post_init__(self) -> None:
        if not self.direction.is_finite:
            raise NonFinite("The estimate has a coefficient that is not finite.")
