"""The interface for whatever watches a run: a progress bar, or what somebody wants to see or decide on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.core.memory import MemoryReading
from zoplat.training.outlook import Outlook
from zoplat.training.progress import Progress
from zoplat.training.summary import Summary

COLUMNS = {"step", "loss", "lr", "dev", "test"}
"""What the history of every run has."""


class Callback:
    """Is notified of the events of a run, in the thread of the run. The methods for events do nothing until overridden.

    In any of them it may `stop` the run and `log` numbers of its own; an exception that it raises ends the run as it
    would anywhere else, with all steps so far in the journal. What it is given it may read, and must not change.

    >>> class Enough(Callback):
    ...     def evaluated(self, record):
    ...         if record["split"] == "dev" and record["score"] > 0.9:
    ...             self.stop("dev is above 90 %")
    """

    _reason = ""
    _numbers: Mapping[str, float] = {}

    def stop(self, reason: str) -> None:
        """End the run early, as if its budget were used up: once it has made a step, with scores and a summary.

        Args:
            reason: why, in a few words; summary.json has it as "stopped".
        """
        self._reason = reason

    def log(self, **numbers: float) -> None:
        """Keep numbers of this step: in logged.jsonl, as columns of `history()`, and in trackers.

        Args:
            numbers: by name; the newest counts where a name occurs twice in a step.

        Raises:
            ZoplatError: a name is one of `COLUMNS`, or what it stands for is no number.
        """
        if taken := sorted(COLUMNS & numbers.keys()):
            raise ZoplatError(f"A callback logs '{taken[0]}', which every run has already. Give it another name.")
        if wrong := [name for name, number in numbers.items() if not isinstance(number, SupportsFloat)]:
            raise ZoplatError(f"A callback logs {wrong[0]} = {numbers[wrong[0]]!r}, which is no number.")
        self._numbers = {**self._numbers, **{name: float(number) for name, number in numbers.items()}}

    def reason_to_stop(self) -> str:
        """Why the run is to end early; empty where it is not."""
        return self._reason

    def take_logged(self) -> dict[str, float]:
        """What was logged since this was last asked."""
        numbers, self._numbers = dict(self._numbers), {}
        return numbers

    def limited(self, text: str) -> None:
        """A limit holds for the memory of the run from now on; its model is open."""

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        """The model is open and the run directory is chosen."""

    def resumed(self, step: int) -> None:
        """The steps before this one were restored from a checkpoint and the journal."""

    def measured(self, peak: MemoryReading) -> None:
        """The peak of memory so far: once before training, of opening and inference, then after each step."""

    def stepped(self, progress: Progress, loss: float | None) -> None:
        """A step is over; `loss` is the mean of its finite losses, None if it had none."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """A split was scored; the record is a line of metrics.jsonl."""

    def judged(self, progress: Progress, outlook: Outlook) -> None:
        """There is an outlook: at certain numbers of passes, and where an evaluation changed it."""

    def finished(self, summary: Summary) -> None:
        """The run is done; the summary is written."""

    def logged(self, step: int, numbers: Mapping[str, float]) -> None:
        """A callback has logged numbers, after so many steps."""

    def warned(self, text: str) -> None:
        """Something the user should know, which does not stop the run."""


class Callbacks(Callback):
    """Several callbacks as one; each event reaches all of them, in order.

    Args:
        each: of them.
    """

    def __init__(self, *each: Callback) -> None:
        self.each = each

    def reason_to_stop(self) -> str:
        return next(filter(None, (one.reason_to_stop() for one in self.each)), "")

    def take_logged(self) -> dict[str, float]:
        return {name: number for one in self.each for name, number in one.take_logged().items()}

    def limited(self, text: str) -> None:
        for one in self.each:
            one.limited(text)

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        for one in self.each:
            one.opened(config, session, directory)

    def resumed(self, step: int) -> None:
        for one in self.each:
            one.resumed(step)

    def measured(self, peak: MemoryReading) -> None:
        for one in self.each:
            one.measured(peak)

    def stepped(self, progress: Progress, loss: float | None) -> None:
        for one in self.each:
            one.stepped(progress, loss)

    def evaluated(self, record: dict[str, Any]) -> None:
        for one in self.each:
            one.evaluated(record)

    def judged(self, progress: Progress, outlook: Outlook) -> None:
        for one in self.each:
            one.judged(progress, outlook)

    def finished(self, summary: Summary) -> None:
        for one in self.each:
            one.finished(summary)

    def logged(self, step: int, numbers: Mapping[str, float]) -> None:
        for one in self.each:
            one.logged(step, numbers)

    def warned(self, text: str) -> None:
        for one in self.each:
            one.warned(text)
