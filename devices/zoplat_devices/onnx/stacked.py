"""Trained weights of several points side by side, for a model that knows of one: a rule for every function of torch.

The rows of a batch stand point after point. Whatever is computed from weights and rows is computed for each point with
its own, by `torch.vmap` over that one function; what is computed from weights alone has a dimension of points in front
too. All else sees rows, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as trees

from zoplat_devices.pytorch.strategies.stand_ins import METADATA


class Stacked(TorchFunctionMode):  # type: ignore[misc]
    """While it is on, weights have a dimension of points in front.

    Args:
        weights: of all points.
        rows: how many there may be, over all points.
    """

    def __init__(self, weights: Sequence[Any], rows: Sequence[Any]) -> None:
        super().__init__()
        self.points, self.rows = weights[0].shape[0], rows
        self.kept = {id(weight): weight for weight in weights}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Whatever torch is asked to do meanwhile."""
        given, form = trees.tree_flatten((args, kwargs or {}))
        if not any(map(self._is_weight, given)):
            return func(*args, **(kwargs or {}))

        def call(*values: Any) -> Any:
            args, kwargs = trees.tree_unflatten(values, form)
            return (_looked_up if func is functional.embedding else func)(*args, **kwargs)

        if getattr(func, "__name__", "") in METADATA:
            fact = call(*(x[0] if self._is_weight(x) else x for x in given))
            if not isinstance(fact, torch.Tensor):
                return fact
        has_rows = [self._has_rows(x) for x in given]
        parts = [x.unflatten(0, (self.points, -1)) if rows else x for x, rows in zip(given, has_rows, strict=True)]
        places = tuple(0 if rows or self._is_weight(x) else None for x, rows in zip(given, has_rows, strict=True))
        told = torch.vmap(call, in_dims=places)(*parts)
        return trees.tree_map(lambda x: x.flatten(0, 1) if any(has_rows) else self.kept.setdefault(id(x), x), told)

    def _is_weight(self, x: Any) -> bool:
        return id(x) in self.kept

    def _has_rows(self, x: Any) -> bool:
        if not isinstance(x, torch.Tensor) or not x.dim() or self._is_weight(x):
            return False
        return any(statically_known_true(x.shape[0] == rows) for rows in self.rows)


def _looked_up(ids: Any, weight: Any, *_: Any, **__: Any) -> Any:
    """An embedding; torch's own is for as many points as there were when the graph was made."""
    return weight[ids]
