"""Run a model with trained weights of several points stacked: a torch function mode that adds a dimension of points.

The rows of a batch are stacked point after point. A function of weights and rows is mapped over points by `torch.vmap`,
each point with its own weights; a function of weights alone yields another array with a leading dimension of points.
Any other function sees ordinary rows.
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
    """While it is active, weights may have a leading dimension of points.

    Args:
        weights: of all points, stacked.
        rows: leading dimensions, over all points, by which arrays with rows are recognised.
    """

    def __init__(self, weights: Sequence[Any], rows: Sequence[Any]) -> None:
        super().__init__()
        self._points, self._rows = weights[0].shape[0], rows
        self._stacked = {id(weight): weight for weight in weights}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called for every torch function while the mode is active."""
        given, form = trees.tree_flatten((args, kwargs or {}))
        if not any(map(self._is_weight, given)):
            return func(*args, **(kwargs or {}))

        def call(*values: Any) -> Any:
            args, kwargs = trees.tree_unflatten(values, form)
            return (_lookup if func is functional.embedding else func)(*args, **kwargs)

        if getattr(func, "__name__", "") in METADATA:
            fact = call(*(x[0] if self._is_weight(x) else x for x in given))
            if not isinstance(fact, torch.Tensor):
                return fact
        has_rows = [self._has_rows(x) for x in given]
        parts = [x.unflatten(0, (self._points, -1)) if rows else x for x, rows in zip(given, has_rows, strict=True)]
        axes = tuple(0 if rows or self._is_weight(x) else None for x, rows in zip(given, has_rows, strict=True))
        results = torch.vmap(call, in_dims=axes)(*parts)
        return trees.tree_map(
            lambda x: x.flatten(0, 1) if any(has_rows) else self._stacked.setdefault(id(x), x), results
        )

    def _is_weight(self, x: Any) -> bool:
        return id(x) in self._stacked

    def _has_rows(self, x: Any) -> bool:
        if not isinstance(x, torch.Tensor) or not x.dim() or self._is_weight(x):
            return False
        return any(statically_known_true(x.shape[0] == rows) for rows in self._rows)


def _lookup(ids: Any, weight: Any, *_: Any, **__: Any) -> Any:
    """An embedding lookup; the exporter would fix the number of points in torch's own."""
    return weight[ids]
