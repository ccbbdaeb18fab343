"""A run sent to experiment trackers: in a thread for each, so that none can hold up the run or end it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeAlias

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.core.memory import MemoryReading
from zoplat.core.tracker import TrackedNumbers, TrackedRun, Tracker
from zoplat.paths import replace_text
from zoplat.registry import catalogue
from zoplat.training.callbacks import Callback
from zoplat.training.outlook import Outlook
from zoplat.training.progress import Progress
from zoplat.training.summary import Summary

FILE = "trackers.json"
"""In the run directory: tracker → what finds the run again there."""
OPENING, PATIENCE = 30.0, 60.0
"""Seconds that a run waits for a tracker: at its begin to be opened, and at its end to take what is left."""

Work: TypeAlias = Callable[[TrackedNumbers], None]


def trackers_named(names: str | Iterable[str] | None, out: Path | None = None) -> dict[str, Tracker]:
    """The trackers of a run: those named, or those that a run in `out` was begun with where none is.

    Args:
        names: registered names; one text may have several, with commas between them. "none" is none at all.
        out: a run directory that may hold a run.

    Raises:
        ZoplatError: a name is not registered, or a library is not installed.
    """
    if names is None:
        names = list(_known(out)) if out else []
    chosen = names.split(",") if isinstance(names, str) else [part for name in names for part in name.split(",")]
    found = {}
    for name in dict.fromkeys(part.strip() for part in chosen):
        if name in ("", "none"):
            continue
        tracker: Tracker = catalogue().entry("tracker", name).value
        if reason := tracker.missing():
            raise ZoplatError(f"--report-to {name}: {reason}")
        found[name] = tracker
    return found


@contextmanager
def tracked(callback: Callback, trackers: Mapping[str, Tracker]) -> Iterator[Callback]:
    """A callback that sends a run to trackers too; they are closed at the end, whatever it is."""
    if not trackers:
        yield callback
        return
    sender = _Sender(callback, trackers)
    try:
        yield sender
    finally:
        sender.close()


class _Line(Thread):
    """The line to one tracker: does what is queued, in order, until something fails."""

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)
        self.tracker, self.tracked = tracker, run
        self.known_as, self.problem, self.is_open = run.known, "", Event()
        self.queue: SimpleQueue[Work | None] = SimpleQueue()
        self.start()

    def run(self) -> None:
        try:
            numbers = self.tracker.open(self.tracked)
            self.known_as = numbers.known_as
            self.is_open.set()
            while work := self.queue.get():
                work(numbers)
        except BaseException as problem:  # a library may end the thread in ways of its own
            self.problem = f"{type(problem).__name__}: {problem}".partition("\n")[0][:300]
        finally:
            self.is_open.set()


class _Sender(Callback):
    """Passes the events of a run on to another callback, and its numbers to trackers."""

    def __init__(self, inner: Callback, trackers: Mapping[str, Tracker]) -> None:
        self.inner, self.trackers = inner, trackers
        self.lines: dict[str, _Line] = {}
        self.memory: dict[str, float] = {}
        self.known: dict[str, str] = {}
        self.is_finished = False

    def limited(self, text: str) -> None:
        self.inner.limited(text)

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        self.inner.opened(config, session, directory)
        self.directory, self.known = directory, _known(directory)
        settings = dict(_flat(config.table()))
        for name, tracker in self.trackers.items():
            run = TrackedRun(directory.name, directory, settings, self.known.get(name))
            self.lines[name] = _Line(name, tracker, run)
        for line in self.lines.values():
            line.is_open.wait(OPENING)
        self._notice()

    def resumed(self, step: int) -> None:
        self.inner.resumed(step)

    def measured(self, peak: MemoryReading) -> None:
        self.inner.measured(peak)
        self.memory = {"memory/host_peak": float(peak.host_peak)}
        if peak.device_peak is not None:
            self.memory["memory/device_peak"] = float(peak.device_peak)

    def reason_to_stop(self) -> str:
        return self.inner.reason_to_stop()

    def take_logged(self) -> dict[str, float]:
        return self.inner.take_logged()

    def logged(self, step: int, numbers: Mapping[str, float]) -> None:
        self.inner.logged(step, numbers)
        self._send(step, {f"logged/{name}": number for name, number in numbers.items()})

    def stepped(self, progress: Progress, loss: float | None) -> None:
        self.inner.stepped(progress, loss)
        numbers = {"train/passes": float(progress.passes), "train/seconds": progress.seconds, **self.memory}
        self._send(progress.step, numbers if loss is None else {"train/loss": loss, **numbers})

    def evaluated(self, record: dict[str, Any]) -> None:
        self.inner.evaluated(record)
        self._send(record["step"], {f"{record['split']}/{record['metric']}": float(record["score"])})

    def judged(self, progress: Progress, outlook: Outlook) -> None:
        self.inner.judged(progress, outlook)

    def warned(self, text: str) -> None:
        self.inner.warned(text)

    def finished(self, summary: Summary) -> None:
        self.inner.finished(summary)
        self._end(dict(_flat(summary.to_json())))

    def close(self) -> None:
        """End the lines; a run that was cut off has no summary."""
        self._end(None)
        for name, line in self.lines.items():
            line.join(PATIENCE)
            if line.is_alive():
                self.inner.warned(f"tracker '{name}' did not take all within {PATIENCE:g} s; the run has everything")
        self._notice()

    def _end(self, summary: dict[str, Any] | None) -> None:
        if self.is_finished:
            return
        self.is_finished = True
        for line in self.lines.values():
            line.queue.put(lambda numbers: numbers.finish(summary))
            line.queue.put(None)

    def _send(self, step: int, numbers: dict[str, float]) -> None:
        for line in self.lines.values():
            line.queue.put(lambda tracked: tracked.log(step, numbers))
        self._notice()

    def _notice(self) -> None:
        """Say once that a tracker failed, which is then left alone; keep what finds the run again in the others."""
        for name, line in list(self.lines.items()):
            if line.problem:
                del self.lines[name]
                self.inner.warned(f"tracker '{name}' failed and is left out from now on: {line.problem}")
        known = {**self.known, **{name: line.known_as for name, line in self.lines.items() if line.known_as}}
        if known != self.known:
            self.known = known
            replace_text(self.directory / FILE, json.dumps(known, indent=1) + "\n")


def _known(directory: Path) -> dict[str, str]:
    """What finds the run again, by tracker; empty where nothing is on record."""
    try:
        table = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in table.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and plain values of nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        elif value is not None:
            yield f"{path}{name}", value if isinstance(value, int | float | str) else str(value)
