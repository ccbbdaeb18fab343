"""Experiment trackers: programs that keep the numbers of many runs and draw them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from zoplat.core.fields import Checked


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is given of a run when it is opened.

    Attributes:
        name: of the run: that of its directory.
        directory: its run directory, which exists.
        settings: by dotted path, as plain values.
        known: what `TrackedNumbers.known_as` was in an earlier process of the run; None for a run that begins.
    """

    name: str
    directory: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    known: str | None = None


class TrackedNumbers(ABC):
    """One run in a tracker. All methods are called in one thread, which is not that of the run.

    Attributes:
        known_as: what finds the run again in the tracker, to go on with it in another process.
    """

    known_as: str

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep some numbers, such as "train/loss", after so many steps; several calls may be about one step."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Keep the summary of the run, plain values by dotted path, and close; None where the run was cut off."""


class Tracker(Checked, ABC):
    """A frozen dataclass, cheap to construct; `open` imports its library, which has settings and variables of its own.

    Attributes:
        summary: what it is, in one line.
        module: what is imported.
        package: what `pip install` calls it.
    """

    summary: ClassVar[str]
    module: ClassVar[str]
    package: ClassVar[str]

    def missing(self) -> str | None:
        """Why it can't be used here, and what to do about it; None when it can."""
        if find_spec(self.module):
            return None
        return f"its library is not installed. pip install {self.package}"

    @abstractmethod
    def open(self, run: TrackedRun) -> TrackedNumbers:
        """Begin to track a run, or go on with it."""
