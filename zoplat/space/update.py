"""Updates of weights by name: what takes the arrays from one point to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoplat.core.blocks import Block, Buffer
from zoplat.core.direction import ZERO, Direction


@dataclass(frozen=True)
class Update:
    """W ← factor·W + decayed on blocks that decay, W ← W + undecayed on the others.

    Attributes:
        factor: product of (1 − decay) over all steps.
        decayed: sum of the steps, each multiplied by (1 − decay) of every later one.
        undecayed: sum of the steps.
    """

    factor: float
    decayed: Direction
    undecayed: Direction

    @classmethod
    def along(cls, direction: Direction) -> Update:
        """W ← W + direction on all blocks."""
        return cls(1.0, direction, direction)

    def then(self, direction: Direction, decay: float = 0.0) -> Update:
        """Followed by W ← (1 − decay)·W + direction."""
        factor = 1 - decay
        return Update(factor * self.factor, factor * self.decayed + direction, self.undecayed + direction)

    def on(self, block: Block) -> tuple[float, Direction]:
        """(factor, direction) with W ← factor·W + direction on one block."""
        return (self.factor, self.decayed) if block.decays else (1.0, self.undecayed)

    def changes(self, block: Block) -> bool:
        """Whether any entry of a block may change."""
        factor, direction = self.on(block)
        return factor != 1.0 or direction.touches(block)

    def reads(self, buffers: Sequence[Buffer]) -> bool:
        """Whether an entry of it is made of one of some buffers."""
        return any(direction.reads(buffers) for direction in (self.decayed, self.undecayed))

    @property
    def is_uniform(self) -> bool:
        """Whether it is W ← W + direction with one direction for all blocks."""
        return self.factor == 1.0 and self.decayed == self.undecayed

    def __bool__(self) -> bool:
        return bool(self.decayed or self.undecayed) or self.factor != 1.0


NO_UPDATE = Update.along(ZERO)
