"""The streaming strategy on shapes: the units that are in memory together, and what points keep while they wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from zoplat.core.direction import Direction
from zoplat.core.example import Row
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.pieces import pieces
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.pytorch.strategies.sequential import ExactRestore
from zoplat_devices.pytorch.strategies.window import sizes


class ShapedStreaming:
    """In place of `StreamingEvaluator` on the meta device: points are evaluated one after the other.

    Args:
        model: on the meta device.
        space: of what is trained.
        scorer: runs the model on a batch.
        exact_restore: forms the perturbed weights of a point.
        size: of the window.

    Attributes:
        bytes: of the window.
    """

    def __init__(
        self, model: Any, space: ParameterSpace, scorer: Scorer, exact_restore: ExactRestore, size: int
    ) -> None:
        self._space, self._scorer, self._exact_restore = space, scorer, exact_restore
        self.bytes = size
        self._handed_on = 0
        for _, module in pieces(model):
            module.register_forward_pre_hook(self._note, with_kwargs=True)

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[Any]:
        """Losses, the later ones beside what the other points hand on from unit to unit."""
        self._space.settle()
        self._handed_on, found, waiting = 0, [], None
        for direction in directions:
            self._space.perturb(direction)
            with self._exact_restore.active() if direction else nullcontext():
                found.append(self._scorer.loss(rows))
            if waiting is None:
                size = (len(directions) - 1) * self._handed_on
                waiting = torch.empty(size, dtype=torch.uint8, device="meta")
        return found

    def _note(self, module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Note what a unit is given: hidden states, a mask, the angles of positions."""
        tensors = {id(one): one for one in tree_leaves((inputs, dict(named))) if isinstance(one, torch.Tensor)}
        self._handed_on = max(self._handed_on, sum(int(one.nbytes) for one in tensors.values()))


def window(model: Any, kind: str) -> int:
    """Bytes of the units of a model that are in memory together: the two largest, or the regions on a GPU."""
    modules = [module for _, module in pieces(model)]
    if kind == "cuda":
        return sum(sizes(modules))
    return sum(sorted(sum(int(p.nbytes) for p in module.parameters()) for module in modules)[-2:])


def streamed(model: Any) -> dict[int, Any]:
    """The weights that are not in memory throughout, by identity."""
    return {id(parameter): parameter for _, module in pieces(model) for parameter in module.parameters()}
