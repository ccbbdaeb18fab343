"""What takes the weights from where the arrays stand to somewhere else."""

from __future__ import annotations

from dataclasses import dataclass

from zoplat.core.blocks import Block
from zoplat.core.direction import ZERO, Direction


@dataclass(frozen=True)
class Update:
    """W ← keep·W + decayed on the blocks that decay, W ← W + plain on the others.

    Attributes:
        keep: what weight decay leaves of W.
        decayed: sum of the moves, each shrunk by the decays that came after it.
        plain: sum of the moves as they were made.
    """

    keep: float
    decayed: Direction
    plain: Direction

    @classmethod
    def along(cls, direction: Direction) -> Update:
        """W ← W + direction on all blocks."""
        return cls(1.0, direction, direction)

    def then(self, direction: Direction, decay: float = 0.0) -> Update:
        """This one, followed by W ← (1 − decay)·W + direction."""
        keep = 1 - decay
        return Update(keep * self.keep, keep * self.decayed + direction, self.plain + direction)

    def on(self, block: Block) -> tuple[float, Direction]:
        """(factor, direction) on one block."""
        return (self.keep, self.decayed) if block.decays else (1.0, self.plain)

    def changes(self, block: Block) -> bool:
        """Whether it may change a block."""
        factor, direction = self.on(block)
        return factor != 1.0 or direction.touches(block)

    @property
    def is_uniform(self) -> bool:
        """Whether it is one sum of moves for all blocks, without decay."""
        return self.keep == 1.0 and self.decayed == self.plain

    def __bool__(self) -> bool:
        return bool(self.decayed or self.plain) or self.keep != 1.0


NO_UPDATE = Update.along(ZERO)
