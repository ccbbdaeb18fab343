"""The same part on arrays of two libraries: the contracts run on numpy, and most devices on torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from zoplat.core.estimator import Estimator
from zoplat.testing.parts import without
from zoplat.testing.places import in_brackets
from zoplat.testing.problems import a_network
from zoplat.testing.runs import train

CLOSE = 1e-6
"""By how much answers and weights of the two libraries may differ in float64: functions are rounded differently."""


@contextmanager
def on_torch() -> Iterator[None]:
    """Skips the block without torch, and says what an operation that torch does not know means."""
    without("torch", "this is not tried on arrays of torch")
    try:
        yield
    except (AttributeError, TypeError, RuntimeError, NotImplementedError) as problem:
        raise AssertionError(
            f"On arrays of torch it raised {type(problem).__name__}: {problem}{in_brackets(problem)}. Most devices "
            "have such arrays: laws and kernels use only the operations that `help(zoplat.Array)` lists."
        ) from None


def runs_on_torch(estimator: Estimator[Any]) -> None:
    """Fails where ten steps on arrays of torch are not those on arrays of numpy."""
    one = a_network()
    answers = train(one, estimator, steps=10)
    with on_torch():
        other = a_network().anew(library="torch")
        others = train(other, estimator, steps=10)
    assert [len(step) for step in answers] == [len(step) for step in others], "On torch other losses were queried."
    off = max((abs(a - b) for step in zip(answers, others, strict=True) for a, b in zip(*step, strict=True)), default=0)
    assert off <= CLOSE, f"Answers on arrays of torch and of numpy differ by {off:.3g} (float64)."
    off = float(np.abs(one.theta - other.theta).max())
    assert off <= CLOSE, f"After ten steps weights on torch and on numpy differ by {off:.3g} (float64)."
