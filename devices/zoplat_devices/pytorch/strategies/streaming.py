"""The streaming strategy: for models larger than memory, one layer at a time, each read once for all points.

The weights lie in files that are mapped into memory; beside a GPU, in pinned memory of the host, and a window on the
GPU has the layer that runs and the next one. A unit is a layer of the model's list of layers, or a module beside that
list with weights of its own. All points pass through a unit before any of them enters the next one: each point is the
forward pass of the sequential strategy in a thread of its own, and one thread runs at a time. A remembered update of a
unit's blocks is performed when the first point reaches it; when the last one has left, the unit's memory is evicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from zoplat.core.blocks import Block
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.mapped import evict, files, lies_in, prefetch
from zoplat_devices.pytorch.parameters import by_address
from zoplat_devices.pytorch.pieces import pieces
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.pytorch.strategies.relay import Relay
from zoplat_devices.pytorch.strategies.sequential import ExactRestore
from zoplat_devices.pytorch.strategies.window import Window


@dataclass(frozen=True, eq=False)
class Unit:
    """A piece of a model that is in memory as a whole.

    Attributes:
        number: in the order in which the model registers them.
        name: of its module.
        module: runs at least once in a forward pass.
        blocks: its trained weights.
        frozen: its other weights, those that are in files.
    """

    number: int
    name: str
    module: Any
    blocks: tuple[Block, ...]
    frozen: tuple[Any, ...]

    @property
    def arrays(self) -> list[Any]:
        """All weights that are read when it runs."""
        return [*(block.array for block in self.blocks), *self.frozen]


class StreamingEvaluator:
    """Losses at θ + d for several d; in any forward pass, units are evicted once they have run.

    Args:
        model: its weights are in files, or in pinned memory.
        space: of these weights.
        scorer: runs the model on a batch.
        exact_restore: forms the perturbed weights of a point.
        gpu: that runs the units; None on a processor.

    Attributes:
        units: in the order in which the model registers them.
        visits: how often each unit was brought into memory, by name.
    """

    def __init__(
        self,
        model: Any,
        space: ParameterSpace,
        scorer: Scorer,
        exact_restore: ExactRestore,
        gpu: torch.device | None = None,
    ) -> None:
        self.visits: Counter[str] = Counter()
        self.units = [*_units(model, space)]
        self._space, self._scorer, self._exact_restore = space, scorer, exact_restore
        self._relay: Relay | None = None
        self._entered, self._left = 0, 0
        self._last: Unit | None = None
        self._following: dict[str, Unit] = {}
        self._window = Window([unit.module for unit in self.units], gpu) if gpu else None
        if self._window:
            model.register_forward_pre_hook(self._begin)
        for unit in self.units:
            unit.module.register_forward_pre_hook(partial(self._enter, unit), prepend=True)
            unit.module.register_forward_hook(partial(self._leave, unit), always_call=True)

    @property
    def bytes(self) -> int:
        """The most weights that are in memory at a time: those of a unit, and of the next one as it is prefetched."""
        if self._window:
            return self._window.bytes
        sizes = sorted(sum(int(array.nbytes) for array in unit.arrays) for unit in self.units)
        return sum(sizes[-2:])

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d; each unit's blocks are brought to θ when the first point reaches it.

        Raises:
            ZoplatError: a trained weight is used outside of the layer that holds it, or not at all.
        """
        before = self.visits.copy()
        self._relay, self._entered, self._left = Relay(len(directions), self._perturb(directions)), 0, 0
        try:
            with self._exact_restore.active() if any(directions) else nullcontext():
                losses = self._relay.run([partial(self._scorer.loss, rows)] * len(directions))
        finally:
            self._relay = None
            self._space.perturb(ZERO)
        self._check_all_visited(before)
        return losses

    def _check_all_visited(self, before: Counter[str]) -> None:
        units = (unit for unit in self.units if self.visits[unit.name] > before[unit.name])
        visited = {block.name for unit in units for block in unit.blocks}
        missed = [block.name for block in self._space.blocks if block.name not in visited]
        if missed:
            raise ZoplatError(
                f"No layer that runs holds {missed[0]}, so the streaming strategy can't follow what the model does "
                "with it. Use -o device.strategy=sequential, or leave it out of --tune."
            )

    def _perturb(self, directions: Sequence[Direction]) -> Callable[[int], None]:
        """What switches the perturbation to that of a point."""

        def on_turn(number: int) -> None:
            self._space.perturb(directions[number])
            self._exact_restore.on = bool(directions[number])

        return on_turn

    def _enter(self, unit: Unit, module: Any, inputs: Any) -> None:
        if self._relay:
            self._relay.meet(unit.name)
        if not self._entered:
            self._bring_in(unit)
        self._entered += 1

    def _leave(self, unit: Unit, module: Any, inputs: Any, output: Any) -> None:
        self._left += 1
        if self._left < (self._relay.count if self._relay else 1):
            return
        self._entered, self._left = 0, 0
        if self._window:
            self._window.leave(unit.number)
            return
        for block in unit.blocks:
            self._space.release(block)
        for tensor in unit.frozen:
            evict(tensor)

    def _begin(self, module: Any, inputs: Any) -> None:
        """Forget what an earlier forward pass has left in the window: the weights may have changed since."""
        assert self._window
        self._window.forget()
        self._last = None

    def _bring_in(self, unit: Unit) -> None:
        """Bring a unit to θ as the first point reaches it, and prefetch the one that came after it the last time."""
        self.visits[unit.name] += 1
        self._settle(unit)
        if self._window:
            self._window.enter(unit.number)
        if self._last:
            self._following[self._last.name] = unit
        self._last = unit
        following = self._following.get(unit.name)
        if following and self._window:
            self._settle(following)
            self._window.fetch(following.number, beside=unit.number)
        elif following:
            for array in following.arrays:
                prefetch(array)

    def _settle(self, unit: Unit) -> None:
        """Perform what is remembered of the last update on a unit, while losses of several points are asked for."""
        for block in unit.blocks if self._relay else ():
            self._space.settle_block(block)


def _units(model: Any, space: ParameterSpace) -> Iterator[Unit]:
    """The pieces of a model with their weights."""
    blocks = by_address(space.blocks)
    known = files()
    for number, (name, module) in enumerate(pieces(model, blocks)):
        parameters = [*module.parameters()]
        trained = tuple(blocks[p.data_ptr()] for p in parameters if p.data_ptr() in blocks)
        frozen = tuple(p.detach() for p in parameters if p.data_ptr() not in blocks and lies_in(known, p))
        yield Unit(number, name, module, trained, frozen)
