"""Machine probes: what a machine tells of itself while a run goes on: energy, temperature, pages of memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

from zoplat.core.fields import Checked

Unit: TypeAlias = Literal["J", "W", "°C", "B"]
"""Joules since some moment, which only grow; watts, degrees Celsius and bytes of now."""
TOTAL: Unit = "J"
"""The unit whose readings add up: what counts is how far they grew."""


class Gauge(ABC):
    """A probe that is open. It is read in one thread at a time.

    Attributes:
        units: name of each quantity → its unit; the same as long as it is open.
    """

    units: Mapping[str, Unit]

    @abstractmethod
    def read(self) -> Mapping[str, float]:
        """The quantities now, by name; one that can't be read just now is left out. Takes milliseconds at most."""

    def joules(self) -> float | None:
        """Energy since some moment, every part of the machine counted once; None where it tells of none.

        Read twice a step, so cheap; budgets of energy are kept by it.
        """
        return None

    def close(self) -> None:  # noqa: B027  # most have nothing to give back
        """Give back what was opened; nothing is read afterwards."""


class Probe(Checked, ABC):
    """A frozen dataclass, cheap to construct; `open` imports its library and finds out what there is to read.

    Attributes:
        summary: what it reads, in one line.
        on_request: whether it is read only where it is named, because reading it takes long.
    """

    summary: ClassVar[str]
    on_request: ClassVar[bool] = False

    @abstractmethod
    def missing(self) -> str | None:
        """Why nothing can be read here, and what to do about it if anything can be done; None where something can."""

    @abstractmethod
    def open(self) -> Gauge:
        """Begin to read; called only where nothing is missing."""
