"""Trackio: a local database with a page to look at.

`trackio show` opens the page. TRACKIO_DIR is its own setting for the folder of the database. Text of the summary is
left out, since a run there has numbers and its settings.
"""

from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, ClassVar
from uuid import uuid4

from zoplat import TrackedNumbers, TrackedRun, Tracker, hookimpl


@dataclass(frozen=True)
class Trackio(Tracker):
    """The Trackio project zoplat."""

    summary: ClassVar[str] = "Trackio: a local database, for `trackio show`"
    module: ClassVar[str] = "trackio"
    package: ClassVar[str] = "trackio"

    def open(self, run: TrackedRun) -> "TrackioRun":
        return TrackioRun(run)


class TrackioRun(TrackedNumbers):
    """One run in a project."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self.known_as = run.known or f"{run.name}-{uuid4().hex[:8]}"
        settings = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with redirect_stdout(StringIO()):  # it greets
            self.run = trackio.init(
                project="zoplat", name=self.known_as, config=dict(run.settings), resume="allow", **settings
            )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            numbers = {f"summary/{name}": x for name, x in summary.items() if isinstance(x, int | float)}
            self.log(int(summary["steps"]), numbers)
        with redirect_stdout(StringIO()):
            self.run.finish()


@hookimpl
def zoplat_trackers() -> dict[str, Trackio]:
    return {"trackio": Trackio()}
