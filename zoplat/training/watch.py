"""Watches a run while it goes on: writes its trace, and says at times whether it is learning."""

from __future__ import annotations

from zoplat.config.run_config import RunConfig
from zoplat.config.usual import value_of
from zoplat.core.device import Session
from zoplat.space.rounding import NARROW
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import StepRecord
from zoplat.training.outlook import Course, Outlook, is_due, outlook
from zoplat.training.progress import Progress
from zoplat.training.trace import Trace


class Watch:
    """The trace of a run, and its outlook.

    Args:
        config: the settings.
        session: the model.
        directory: has the evaluations and the trace.
        callback: is notified of an outlook at certain numbers of passes, and of one that changed at an evaluation.
    """

    def __init__(self, config: RunConfig, session: Session, directory: RunDirectory, callback: Callback) -> None:
        self.config, self.directory, self.callback = config, directory, callback
        self.trace = Trace(directory.trace, config, session)
        self.is_narrow = any(block.dtype in NARROW for block in session.space.blocks)
        self.steps: list[StepRecord] = []
        self.passes, self.newest = 0, ""

    def resume(self, steps: list[StepRecord], progress: Progress) -> None:
        """Go on after the steps of an earlier process."""
        self.steps, self.passes = [_light(record) for record in steps], progress.passes
        self.trace.resume(len(steps))

    def before(self, step: int) -> None:
        """A step is about to be made."""
        self.trace.before(step)

    def after(self, record: StepRecord, slopes: list[float], progress: Progress) -> None:
        """A step was made."""
        self.steps.append(_light(record))
        self.trace.after(record.step, progress.passes, slopes)
        if is_due(self.passes, progress.passes) and not progress.is_over(self.config):
            self._tell(progress, self.outlook(progress))
        self.passes = progress.passes

    def evaluated(self, progress: Progress) -> None:
        """Dev was scored; what that changes is said."""
        found = self.outlook(progress)
        if self.newest and found.word != self.newest:
            self._tell(progress, found)

    def outlook(self, progress: Progress) -> Outlook:
        """What can be said now."""
        dev = [record for record in self.directory.read_metrics() if record["split"] == "dev"]
        changed = [record["changed"] for record in dev if record.get("changed") is not None]
        lr, eps = (value_of(self.config.estimator, name) for name in ("lr", "eps"))
        scores = [(float(record["score"]), int(record["rows"])) for record in dev]
        rounded = changed[-1] if changed and self.is_narrow else None
        return outlook(Course(self.steps, self.trace.records, scores, progress.share(self.config), lr, eps, rounded))

    def _tell(self, progress: Progress, found: Outlook) -> None:
        self.newest = found.word
        self.callback.judged(progress, found)


def _light(record: StepRecord) -> StepRecord:
    """A record without its answers, which may be many."""
    return StepRecord(record.step, [], record.lr, record.loss)
