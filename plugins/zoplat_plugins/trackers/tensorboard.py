"""TensorBoard: event files in the run directory.

`tensorboard --logdir runs` shows the runs below runs/. Scalars are by step; settings and summary stand under "text".
A run that goes on adds another event file to the same folder.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoplat import TrackedNumbers, TrackedRun, Tracker, hookimpl

FOLDER = "tensorboard"
"""In the run directory."""


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files."""

    summary: ClassVar[str] = "TensorBoard: event files in the run directory, for `tensorboard --logdir runs`"
    module: ClassVar[str] = "tensorboard"
    package: ClassVar[str] = "tensorboard"

    def open(self, run: TrackedRun) -> "EventFiles":
        return EventFiles(run)


class EventFiles(TrackedNumbers):
    """The event files of one run."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.known_as, self.event, self.summary, self.text = run.known or FOLDER, Event, Summary, text_pb
        self.writer = EventFileWriter(str(run.directory / self.known_as))
        if run.known is None:
            self._write_text("settings", run.settings)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        values = [self.summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._add(step, self.summary(value=values))

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            numbers = {f"summary/{name}": float(x) for name, x in summary.items() if isinstance(x, int | float)}
            self.log(int(summary["steps"]), numbers)
            self._write_text("summary", summary)
        self.writer.close()

    def _write_text(self, name: str, table: Mapping[str, Any]) -> None:
        text = "\n".join(f"    {line}" for line in json.dumps(dict(table), indent=1).split("\n"))
        self._add(0, self.text(name, text))

    def _add(self, step: int, summary: Any) -> None:
        self.writer.add_event(self.event(wall_time=time.time(), step=step, summary=summary))


@hookimpl
def zoplat_trackers() -> dict[str, TensorBoard]:
    return {"tensorboard": TensorBoard()}
