"""Step rules by parameter group: each group's own rule moves its own blocks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from zoplat.core.blocks import Part
from zoplat.core.estimate import Estimate
from zoplat.core.oracle import Oracle
from zoplat.core.rule import StepRule
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace
from zoplat.space.part_of_space import PartOfSpace


@dataclass(frozen=True)
class Member:
    """One group as its rule sees it.

    Attributes:
        part: its blocks.
        rule: moves them.
        law: of its draws; None for that of the method.
        radius: r, its ε divided by that of the method. The method probes along r·z on this group, so that what it
            estimates there is r² times the gradient.
    """

    part: Part
    rule: StepRule[Any]
    law: Sampler | None = None
    radius: float = 1.0


@dataclass
class States:
    """The state of each group's rule."""

    each: list[Any]


@dataclass(frozen=True)
class ByGroup(StepRule[States]):
    """Every group's rule on its part of the estimate.

    Attributes:
        members: the groups; each block is in one of them.
    """

    members: tuple[Member, ...] = ()

    def init_for(self, space: ParameterSpace, law: Sampler | None) -> States:
        return States([one.rule.init_for(PartOfSpace(space, one.part), one.law or law) for one in self.members])

    def rate(self, oracle: Oracle) -> float | None:
        """That of the first group."""
        return self.members[0].rule.rate(oracle)

    def apply(self, estimate: Estimate, oracle: Oracle, state: States) -> None:
        """Apply the rule of every group, in order."""
        for one, kept in zip(self.members, state.each, strict=True):
            seen = copy.copy(oracle)  # shares answers, draw numbers and tally
            seen.space = PartOfSpace(oracle.space, one.part)
            own = estimate.direction if one.radius == 1 else estimate.direction / one.radius**2
            one.rule.apply(replace(estimate, direction=own), seen, kept)
