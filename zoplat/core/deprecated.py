"""Names that earlier versions exported, so that plugins which import them still load. They do nothing."""

from __future__ import annotations

import warnings
from typing import Any


class Cost:
    """What a plugin once declared of its step. Costs are measured now, so this one is ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __add__(self, other: Any) -> Cost:
        return self


def numbers(each: float = 1.0) -> Any:
    """What a plugin once declared of its state: a function of a block's shape, here always 0 bytes."""
    return lambda shape: 0.0


NAMES = {"Cost": Cost, "numbers": numbers}


def deprecated(name: str) -> Any:
    """A name that `zoplat` no longer exports, with a DeprecationWarning; AttributeError where it never did."""
    if name not in NAMES:
        raise AttributeError(f"module 'zoplat' has no attribute '{name}'")
    warnings.warn(
        f"zoplat.{name} does nothing any more: the cost of a step is measured. Leave it out, and cost() with it.",
        DeprecationWarning,
        stacklevel=3,
    )
    return NAMES[name]
