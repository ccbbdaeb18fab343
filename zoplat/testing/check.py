"""The contracts, run on what a plugin registers, without pytest: the work of `zoplat check`."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from unittest import SkipTest

from zoplat.registry import Entry
from zoplat.testing.estimators import EstimatorContract
from zoplat.testing.parts import PartContract
from zoplat.testing.rules import StepRuleContract
from zoplat.testing.samplers import SamplerContract

Outcome: TypeAlias = Literal["held", "not applicable", "failed"]

CONTRACTS: dict[str, tuple[type[PartContract], str]] = {
    "estimator": (EstimatorContract, "estimator"),
    "sampler": (SamplerContract, "sampler"),
    "step-rule": (StepRuleContract, "rule"),
}
"""For each kind of part its contract, and the attribute that holds the part there."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one property of one part.

    Attributes:
        name: the property, in words.
        outcome: "held", "not applicable" or "failed".
        message: why not, or why it does not apply.
    """

    name: str
    outcome: Outcome
    message: str = ""


def properties(kind: str) -> list[str]:
    """The tests of a contract, in the order in which they are written."""
    written = [name for base in reversed(CONTRACTS[kind][0].__mro__) for name in vars(base)]
    return [name for name in dict.fromkeys(written) if name.startswith("test_")]


def check(entry: Entry, only: Container[str] | None = None) -> Iterator[Finding]:
    """All properties of one part, or those named."""
    base, place = CONTRACTS[entry.kind]
    contract = type(base.__name__, (base,), {place: entry.value})()
    for test in properties(entry.kind):
        name = in_words(test)
        if only is None or name in only:
            yield _finding(name, getattr(contract, test))


def in_words(test: str) -> str:
    """The name of a property, from that of its test."""
    return test.removeprefix("test_").replace("_", " ")


def _finding(name: str, test: Callable[[], None]) -> Finding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            test()
        except SkipTest as reason:
            return Finding(name, "not applicable", str(reason))
        except AssertionError as problem:
            return Finding(name, "failed", str(problem))
        except Exception as problem:
            return Finding(name, "failed", f"It raised {type(problem).__name__}: {problem}{_place(problem)}")
    return Finding(name, "held")


def _place(problem: BaseException) -> str:
    """File and line of the plugin in which an error was raised; empty outside of plugins."""
    frames = traceback.extract_tb(problem.__traceback__)
    own = Path(__file__).parents[1]
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(own)]
    return f"  ({Path(outside[-1].filename).name}, line {outside[-1].lineno})" if outside else ""
