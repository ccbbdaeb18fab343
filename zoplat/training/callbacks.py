"""Who is notified of what happens in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import MemoryReading, Session
from zoplat.training.progress import Progress


class Callback:
    """Told of what happens; the command line draws it. Every method may be left as it is."""

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        """The model is open and the run directory chosen."""

    def resumed(self, step: int) -> None:
        """Steps before this one come from the journal."""

    def measured(self, peak: MemoryReading) -> None:
        """The most memory so far: once before training, of opening and inference, and at the end of each step."""

    def stepped(self, state: Progress, loss: float | None) -> None:
        """A step is over; `loss` is the mean of the finite losses it saw."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """One split was scored."""

    def warned(self, text: str) -> None:
        """Something the user should know, while the run goes on."""
