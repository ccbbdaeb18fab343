"""The interface for whatever watches a run, such as a progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.memory import MemoryReading
from zoplat.training.outlook import Outlook
from zoplat.training.progress import Progress
from zoplat.training.summary import Summary


class Callback:
    """Is notified of the events of a run, in the thread of the run. The methods do nothing until overridden."""

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

    def warned(self, text: str) -> None:
        """Something the user should know, which does not stop the run."""
