"""The training loop: open the model, score it, step until the budget is spent, score it again, write the summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from zoplat.config.run_config import RunConfig
from zoplat.core.errors import Interrupted, RunFailed
from zoplat.core.example import Row
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory, unused
from zoplat.training.evaluations import Evaluations
from zoplat.training.journal import JournalWriter, StepRecord
from zoplat.training.opening import open_run
from zoplat.training.replay import catch_up, check_start
from zoplat.training.result import Result
from zoplat.training.setup import check
from zoplat.training.step import Learner
from zoplat.training.summarise import summarise
from zoplat.training.summary import verdict
from zoplat.training.yardstick import Yardstick

SPLITS = ("dev", "test")
"""Splits that are scored before and after training."""
MAX_SKIPPED = 20
"""Steps that may be skipped one after the other before the run is given up."""


def train(config: RunConfig, out: Path | None = None, resume: bool = False, callback: Callback | None = None) -> Result:
    """Train until the budget is spent.

    Args:
        config: the settings.
        out: the run directory; None for a new one under runs/.
        resume: continue the run in `out` if there is one.
        callback: is notified of the events of the run.

    Raises:
        ZoplatError: its exit_status says whether the settings were wrong (2) or the run failed (1).
        Interrupted: after everything was written; `resume` goes on from there.
        KeyboardInterrupt: before anything was.
    """
    check(config, out, resume)
    name = f"{Path(config.task).stem}-{config.estimator_name}-{config.seed}"
    directory = RunDirectory(out or unused(Path("runs") / name))
    finished = directory.read_summary()
    if finished and finished.status == "done":
        return Result(finished, directory.path)
    try:
        return _Run(config, directory, callback or Callback()).to_the_end()
    except KeyboardInterrupt:
        if directory.config.exists():
            raise Interrupted(directory.path) from None
        raise


class _Run:
    """One run in this process."""

    def __init__(self, config: RunConfig, directory: RunDirectory, callback: Callback) -> None:
        self.began = time.time()
        self.config, self.directory, self.callback = config, directory, callback
        self.opened = open_run(config)
        self.session, self.profiler = self.opened.session, self.opened.profiler
        self.losses: list[float] = []
        self.evaluations = Evaluations(self.opened, directory, callback, self.losses)
        self.yardstick = Yardstick(config.steps)
        self.skipped_in_a_row = 0

    def to_the_end(self) -> Result:
        """Begin the run or go on with it, and finish it."""
        self.callback.opened(self.config, self.session, self.directory.path)
        self.opened.measure_inference()
        self.callback.measured(self.profiler.so_far)
        self.learner = Learner(self.config, self.session, self.opened.objective, strategy=self._strategy())
        journal = self._journal()
        progress, strategy = self.learner.progress, self.learner.strategy
        before = {split: self.evaluations.baseline(split, progress, strategy) for split in SPLITS}
        try:
            self._loop(journal)
        finally:
            journal.close()
            self._write_memory()
        self.session.space.settle()
        self._save()
        after = {split: self.evaluations.score(split, progress) for split in SPLITS}
        self._write_memory()
        measured = self.yardstick.overhead, time.time() - self.began
        summary = summarise(self.opened, self.directory, progress, self.losses, before, after, *measured)
        self.directory.write_summary(summary.to_json())
        return Result(summary, self.directory.path)

    def _strategy(self) -> str:
        """The evaluation strategy: that of the journal if there is one, because rounding depends on it."""
        journal = self.directory.read_journal()
        return str(journal.header["strategy"]) if journal else self.opened.strategy

    def _journal(self) -> JournalWriter:
        """A new journal, or the one in the run directory with the learner brought to its end."""
        identity = self.opened.identity(self.learner.strategy)
        if not self.directory.config.exists():
            self.directory.begin(self.config, {**self.session.facts, **identity})
        journal = self.directory.read_journal()
        self.directory.trim_metrics(len(journal.steps) if journal else 0)
        if journal is None:
            return JournalWriter(self.directory.journal, identity)
        check_start(journal, self.session, self.directory)
        journal = catch_up(self.learner, journal, self.directory)
        for record in journal.steps:
            self._keep_loss(record)
        self.callback.resumed(self.learner.progress.step)
        return JournalWriter(self.directory.journal, {}, after=journal)

    def _loop(self, journal: JournalWriter) -> None:
        progress = self.learner.progress
        while not progress.is_over(self.config):
            if progress.step and self.learner.is_checkpoint_step:
                self._checkpoint()
            self._step(journal)

    def _checkpoint(self) -> None:
        self._save()
        self.evaluations.score("dev", self.learner.progress)
        if verdict(self.losses) == "rising":
            self.callback.warned("the loss is rising, not falling; a lower --lr or a decaying rule may help")

    def _step(self, journal: JournalWriter) -> None:
        learner, progress = self.learner, self.learner.progress
        rows = self.opened.batches.at(progress.step)
        bare = self._bare_forward(rows) if self.yardstick.is_due(progress.step) else None
        skipped, passes, began = progress.skipped, progress.passes, time.perf_counter()
        record = learner.advance(self.opened.batches, self.profiler)
        seconds = time.perf_counter() - began
        journal.append(record)
        progress.seconds += seconds
        if bare is not None:
            self.yardstick.add(seconds, bare, progress.passes - passes)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if progress.skipped > skipped else 0
        if self.skipped_in_a_row == MAX_SKIPPED:
            raise RunFailed(
                f"{MAX_SKIPPED} steps in a row, up to step {record.step}, could not be made. The last one: "
                f"{learner.skip_reason} Another --lr or --eps may help. The journal is kept in {self.directory.path}."
            )
        self.callback.measured(self.profiler.so_far)
        self._keep_loss(record)
        self.callback.stepped(progress, record.loss)

    def _bare_forward(self, rows: Sequence[Row]) -> float:
        """Seconds of one forward pass, as inference makes it, on the batch of the step that follows."""
        with self.profiler.phase("yardstick"):
            began = time.perf_counter()
            self.opened.objective.loss(self.session, rows)
            return time.perf_counter() - began

    def _keep_loss(self, record: StepRecord) -> None:
        if record.loss is not None:
            self.losses.append(record.loss)

    def _save(self) -> None:
        with self.profiler.phase("checkpoint"):
            self.directory.checkpoints.save(self.session, self.learner.progress, self.learner.states)

    def _write_memory(self) -> None:
        if self.directory.path.exists():
            owners = [{"kind": "owner", "owner": owner, "bytes": size} for owner, size in self.session.ledger().items()]
            self.directory.write_memory([*self.profiler.rows(), *owners])
