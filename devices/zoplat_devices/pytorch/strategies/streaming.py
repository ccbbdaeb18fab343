"""The streaming strategy: a model larger than memory, one layer at a time, each once for all points of a question.

The weights lie in files that are mapped into memory. A unit is a layer of the model's list of layers, or a module
beside that list with weights of its own. All points pass through a unit before any enters the next one: each point is
the forward pass that walking would make, in a thread of its own, and one runs at a time. What was remembered for the
blocks of a unit is performed when the first point comes to it; when the last one leaves, its memory is let go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch.nn import ModuleList

from zoplat.core.blocks import Block
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.mapped import evict, fetch, files, lies_in
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.pytorch.strategies.relay import Relay
from zoplat_devices.pytorch.strategies.sequential import HOLDERS, Probes


@dataclass(frozen=True, eq=False)
class Unit:
    """A part of a model that is in memory as a whole.

    Attributes:
        name: of its module.
        module: runs once in a forward pass, or more often.
        blocks: its trained weights.
        frozen: its other weights, as far as they are in files.
    """

    name: str
    module: Any
    blocks: tuple[Block, ...]
    frozen: tuple[Any, ...]

    @property
    def arrays(self) -> list[Any]:
        """All that is read where it runs."""
        return [*(block.array for block in self.blocks), *self.frozen]


class Streaming:
    """Losses at θ + d for several d, for the model of one session; and what a pass has left is let go in any pass.

    Args:
        model: its weights are in files.
        space: of these weights.
        scorer: runs the model on a batch.
        probes: forms the weights of a point.

    Attributes:
        visits: how often each unit was brought in.
    """

    def __init__(self, model: Any, space: ParameterSpace, scorer: Scorer, probes: Probes) -> None:
        self.space, self.scorer, self.probes = space, scorer, probes
        self.visits: Counter[str] = Counter()
        self.units = [*_units(model, space)]
        self._relay: Relay | None = None
        self._inside, self._left = 0, 0
        self._last: Unit | None = None
        self._following: dict[str, Unit] = {}
        for unit in self.units:
            unit.module.register_forward_pre_hook(partial(self._enter, unit), prepend=True)
            unit.module.register_forward_hook(partial(self._leave, unit), always_call=True)

    @property
    def bytes(self) -> int:
        """Weights that are in memory at a time, at most: of a unit, and of the next one where that is read ahead."""
        sizes = sorted(sum(int(array.nbytes) for array in unit.arrays) for unit in self.units)
        return sum(sizes[-2:])

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d; blocks that θ has left behind are settled where they are met.

        Raises:
            ZoplatError: a trained weight is used outside of the layer that holds it, or not at all.
        """
        before = self.visits.copy()
        self._relay, self._inside, self._left = Relay(len(directions), self._take(directions)), 0, 0
        try:
            with self.probes.active() if any(directions) else nullcontext():
                told = self._relay.run([partial(self.scorer.loss, rows)] * len(directions))
        finally:
            self._relay = None
            self.space.perturb(ZERO)
        met = {block.name for unit in self.units if self.visits[unit.name] > before[unit.name] for block in unit.blocks}
        missed = [block.name for block in self.space.blocks if block.name not in met]
        if missed:
            raise ZoplatError(
                f"No layer that runs holds {missed[0]}, so the streaming strategy can't follow what the model does with "
                "it. Use -o device.strategy=sequential, or leave it out of --tune."
            )
        return told

    def _take(self, directions: Sequence[Direction]) -> Callable[[int], None]:
        def take(number: int) -> None:
            self.space.perturb(directions[number])
            self.probes.on = bool(directions[number])

        return take

    def _enter(self, unit: Unit, module: Any, inputs: Any) -> None:
        if self._relay:
            self._relay.meet(unit.name)
        if not self._inside:
            self._bring(unit)
        self._inside += 1

    def _leave(self, unit: Unit, module: Any, inputs: Any, output: Any) -> None:
        self._left += 1
        if self._left < (self._relay.count if self._relay else 1):
            return
        self._inside, self._left = 0, 0
        for block in unit.blocks:
            self.space.release(block)
        for tensor in unit.frozen:
            evict(tensor)

    def _bring(self, unit: Unit) -> None:
        """The first point is here."""
        self.visits[unit.name] += 1
        if self._relay:
            for block in unit.blocks:
                self.space.settle_block(block)
        if self._last:
            self._following[self._last.name] = unit
        self._last = unit
        if unit.name in self._following:
            for array in self._following[unit.name].arrays:
                fetch(array)


def _units(model: Any, space: ParameterSpace) -> Iterator[Unit]:
    """The parts of a model, each once, none within another."""
    blocks = {block.array.data_ptr(): block for block in space.blocks}
    known = files()
    for name, module in pieces(model, blocks):
        parameters = [*module.parameters()]
        trained = tuple(blocks[p.data_ptr()] for p in parameters if p.data_ptr() in blocks)
        frozen = tuple(p.detach() for p in parameters if p.data_ptr() not in blocks and lies_in(known, p))
        yield Unit(name, module, trained, frozen)


def pieces(model: Any, blocks: Mapping[int, Block] = MappingProxyType({})) -> Iterator[tuple[str, Any]]:
    """Layers of lists, and modules with weights of their own beside them; none within another.

    Args:
        model: of transformers, inside an adapter of peft or not.
        blocks: what is trained, by address.

    Raises:
        ZoplatError: a trained weight belongs to a module that holds a list of layers.
    """
    layers = {id(layer) for holder in model.modules() if isinstance(holder, ModuleList) for layer in holder}
    seen: set[int] = set()

    def look(name: str, module: Any) -> Iterator[tuple[str, Any]]:
        own = [*_own(module)]
        holds_layers = any(id(inner) in layers for inner in module.modules() if inner is not module)
        is_unit = id(module) in layers and type(module).__name__ not in HOLDERS
        if is_unit or (own and not holds_layers):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module
            return
        trained = [blocks[p.data_ptr()].name for p in own if p.data_ptr() in blocks]
        if trained:
            raise ZoplatError(
                f"The streaming strategy needs every trained weight in a layer or beside the list of layers, and "
                f"{trained[0]} belongs to what holds them all. Use -o device.strategy=sequential, or leave it out of --tune."
            )
        for child, inner in module.named_children():
            yield from look(f"{name}.{child}".strip("."), inner)

    return look("", model)


def _own(module: Any) -> Iterator[Any]:
    """The parameters of a module and of what holds them for it."""
    yield from module.parameters(recurse=False)
    for child in module.children():
        if type(child).__name__ in HOLDERS:
            yield from child.parameters(recurse=False)
