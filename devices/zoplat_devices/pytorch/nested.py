"""Tensors inside the arguments and the results of a function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def tensors_in(x: Any) -> Iterator[Any]:
    """Tensors of any kind in nested tuples, lists and dictionaries."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for item in x:
            yield from tensors_in(item)
    elif isinstance(x, dict):
        yield from tensors_in(tuple(x.values()))
