"""The contracts, run on what a plugin registers, without pytest: the work of `zoplat check`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias
from unittest import SkipTest

from zoplat.registry import Entry
from zoplat.testing.devices import DeviceContract
from zoplat.testing.estimators import EstimatorContract
from zoplat.testing.parts import Contract
from zoplat.testing.places import in_brackets
from zoplat.testing.probes import ProbeContract
from zoplat.testing.rules import StepRuleContract
from zoplat.testing.samplers import SamplerContract
from zoplat.testing.tasks import TaskContract

Outcome: TypeAlias = Literal["held", "not applicable", "failed"]

CONTRACTS: dict[str, tuple[type[Contract], str]] = {
    "estimator": (EstimatorContract, "estimator"),
    "sampler": (SamplerContract, "sampler"),
    "step-rule": (StepRuleContract, "rule"),
    "device": (DeviceContract, "device"),
    "task": (TaskContract, "task"),
    "probe": (ProbeContract, "probe"),
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


def check(entry: Entry, only: Container[str] | None = None, model: str | None = None) -> Iterator[Finding]:
    """All properties of one part, or those named; a device that opens models is tried on `model`."""
    base, place = CONTRACTS[entry.kind]
    contract = type(base.__name__, (base,), {place: entry.value, "model": model})()
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
            return Finding(name, "failed", f"It raised {type(problem).__name__}: {problem}{in_brackets(problem)}")
    return Finding(name, "held")
