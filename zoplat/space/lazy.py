"""Lazy weights: what the arrays hold relative to θ, and the passes that write them.

The update that takes the arrays to θ is kept by name, as a sum of draws. A step only changes this sum; `move_to`
performs the difference between what the arrays hold and what they should hold. So restoring the last perturbation, the
update of the step, weight decay and the next perturbation are one pass with merged coefficients: fewer passes, fewer
roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from zoplat.core.blocks import Block, Part
from zoplat.core.direction import ZERO, Direction
from zoplat.space.backend import Backend
from zoplat.space.buffers import Buffers
from zoplat.space.update import NO_UPDATE, Update

Phase: TypeAlias = "Callable[[str], AbstractContextManager[Any]]"
"""Name of a phase → a context that is entered around its work, for timing."""


class LazyWeights:
    """The arrays of a space, with an update pending between what they hold and θ.

    Args:
        blocks: of the space.
        backend: performs updates.
        buffers: of the space; their rows are released along with a block.
        in_files: whether the arrays are mapped from files that do not all fit in memory.
        before_pass: is called before `pending` is performed.

    Attributes:
        blocks: as given.
        pending: the update that takes the arrays to θ.
        passes: passes over the weights so far; one over some of the blocks counts for their share of the weights.
        phase: is entered for "move" (writing weights) and "rule" (sweeps and reductions).
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        backend: Backend,
        buffers: Buffers,
        in_files: bool,
        before_pass: Callable[[], None],
    ) -> None:
        self.pending = NO_UPDATE
        self.passes = 0.0
        self.phase: Phase = lambda name: nullcontext()
        self.blocks = blocks
        self._backend, self._buffers, self._in_files = backend, buffers, in_files
        self._before_pass = before_pass
        self._size = sum(block.size for block in blocks)
        self._settled: set[str] = set()

    @property
    def is_mid_pass(self) -> bool:
        """Whether some blocks have been settled by a pass that the others are still waiting for."""
        return bool(self._settled)

    def stands_at(self, direction: Direction) -> None:
        """Note that the arrays hold θ + direction."""
        self.pending = Update.along(-direction)
        self._settled = set()

    def add(self, direction: Direction, decay: float) -> None:
        """θ ← (1 − decay)·θ + direction, added to the pending update."""
        if self._settled:
            self.move_to(ZERO)
        self.pending = self.pending.then(direction, decay)

    def move_to(self, direction: Direction) -> None:
        """Make the arrays hold θ + direction; one pass, or none if they do already."""
        if self._settled and direction:
            self.move_to(ZERO)
        update = self.pending.then(direction)
        if update:
            with self.phase("move"):
                changed = [block for block in self.blocks if update.changes(block)]
                if not self._settled:
                    self._begin_pass(changed)
                self._write([block for block in changed if block.name not in self._settled], update)
        self.stands_at(direction)

    def defer(self, blocks: Sequence[Block], rest: Direction) -> None:
        """Perform the pending update on some blocks; on all others, `rest` is what then takes the arrays to θ."""
        if blocks := [block for block in blocks if self.pending.changes(block)]:
            with self.phase("move"):
                self._begin_pass(blocks)
                self._write(blocks, self.pending)
        self.pending = Update.along(rest)

    def settle_block(self, block: Block) -> None:
        """Make the array of one block hold θ; `move_to` does the rest of that pass."""
        if block.name in self._settled or not self.pending:
            return
        with self.phase("move"):
            if not self._settled:
                self._begin_pass([block for block in self.blocks if self.pending.changes(block)])
            self._settled.add(block.name)
            if self.pending.changes(block):
                self._backend.move([block], self.pending)

    def swept(self, on: Part | None) -> Iterator[Block]:
        """The blocks of a part, one pass; the caller performs `pending` on each before it takes the next."""
        if on is not None or self._settled:
            self.move_to(ZERO)
        self._before_pass()
        with self.phase("rule"):
            self.passes += self._share([block for block in self.blocks if on is None or block in on])
            self._backend.rounding.begin_pass()
            yield from self.visited(on, self._backend.visiting_order(self.blocks))
        self.stands_at(ZERO)

    def visited(self, on: Part | None = None, order: Sequence[Block] = ()) -> Iterator[Block]:
        """The blocks of a part, as registered or in another order; each is released before the next one comes."""
        for block in order or self.blocks:
            if on is None or block in on:
                yield block
                self.release(block)

    def release(self, block: Block) -> None:
        """Evict a block and its rows of buffers from memory, as far as they are mapped from files."""
        if self._in_files:
            self._backend.release(block.array)
        self._buffers.release(block)

    def _write(self, blocks: Sequence[Block], update: Update) -> None:
        """Perform an update on some blocks, one at a time where a part of them is in files."""
        is_in_files = self._in_files or self._backend.rounding.in_files
        for some in [[block] for block in blocks] if is_in_files else [blocks]:
            self._backend.move(some, update)
            for block in some:
                self.release(block)

    def _begin_pass(self, blocks: Sequence[Block]) -> None:
        """Count a pass that writes θ on some blocks, and advance the stream of stochastic rounding."""
        self._before_pass()
        self.passes += self._share(blocks)
        self._backend.rounding.begin_pass()

    def _share(self, blocks: Sequence[Block]) -> float:
        """Share of the weights that some blocks have."""
        return sum(block.size for block in blocks) / self._size
