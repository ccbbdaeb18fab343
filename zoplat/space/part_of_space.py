"""Groups of blocks with settings of their own: θ as one of them sees it, and draws that differ from group to group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoplat.core.arrays import Array
from zoplat.core.blocks import Buffer, Part
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Key
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace


@dataclass(frozen=True)
class Drawn:
    """How a group is probed.

    Attributes:
        part: its blocks.
        law: of its entries of z; None for that of the method.
        radius: its ε divided by that of the method.
    """

    part: Part
    law: Sampler | None = None
    radius: float = 1.0


class GroupedSpace(ParameterSpace):
    """A space whose draws are put together from those of its groups.

    Attributes:
        groups: that together have every block once; empty where all blocks are probed alike.
        law: of the method, in place of which a group may have one of its own.
    """

    groups: Sequence[Drawn] = ()
    law: Sampler | None = None

    def draw(self, sampler: Sampler, key: Key) -> Direction:
        """Σ over the groups: radius · z on the group, z of the group's law.

        Raises:
            ZoplatError: a group has a law of its own, and the method draws from another law than its sampler.
        """
        if not self.groups:
            return super().draw(sampler, key)
        if sampler != self.law and any(group.law for group in self.groups):
            raise ZoplatError(
                f"A parameter group has a sampler of its own, and this method draws from {sampler}, which it makes of "
                "its sampler. Leave the sampler of the group out."
            )
        pieces = [
            group.radius * super(GroupedSpace, self).draw(group.law or sampler, key).on(group.part)
            for group in self.groups
        ]
        return sum(pieces, ZERO)


class PartOfSpace(ParameterSpace):
    """θ as a step rule of some blocks sees it: what it adds, sweeps, reads and allocates is about these alone.

    Args:
        whole: the space, which is settled and moved as a whole.
        part: the blocks.
    """

    def __init__(self, whole: ParameterSpace, part: Part) -> None:
        self.__dict__.update(vars(whole))
        self.__dict__.pop("everything", None)
        self.__dict__.pop("perturbation", None)
        self._whole, self._own = whole, part
        self.blocks = tuple(block for block in whole.blocks if block in part)

    def __getattr__(self, name: str) -> Any:
        if name == "perturbation":
            return self._whole.perturbation
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "perturbation":
            self._whole.perturbation = value
        else:
            super().__setattr__(name, value)

    def add(self, direction: Direction, decay: float = 0.0) -> None:
        """θ ← (1 − decay)·θ + direction on these blocks; decay is a sweep of them."""
        decaying = self.part(lambda block: block.decays)
        if decay and decaying:

            def shrink(theta: Array, g: Array) -> None:
                theta *= 1 - decay

            self.sweep(shrink, ZERO, on=decaying)
        if direction:
            super().add(direction.on(self._own))

    def at(self, direction: Direction) -> None:
        super().at(direction.on(self._own))

    def buffer(
        self,
        owner: str,
        fill: float = 0.0,
        on: Part | None = None,
        columns: int | None = None,
        rows: int | None = None,
        dtype: str | None = None,
        mapped: bool = False,
    ) -> Buffer:
        return super().buffer(owner, fill, self._inside(on), columns, rows, dtype, mapped)

    def reduce(self, count: Any, direction: Direction = ZERO, *buffers: Buffer, on: Part | None = None) -> Any:
        return super().reduce(count, direction, *buffers, on=self._inside(on))

    def quantiles(self, share: float, score: Any, *buffers: Buffer, on: Part | None = None) -> Any:
        return super().quantiles(share, score, *buffers, on=self._inside(on))

    def _inside(self, on: Part | None) -> Part:
        return self._own if on is None else self._own & on

    def _swept(self, on: Part | None) -> Any:
        return super()._swept(self._inside(on))
