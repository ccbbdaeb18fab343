"""One run: open the model, score it, step until the budget is spent, score it again, write the summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import RunFailed
from zoplat.core.example import Row
from zoplat.core.exchange import Exchange
from zoplat.paths import replace_text
from zoplat.tasks.data import Rows
from zoplat.training.binding import changed_versions, check_batches
from zoplat.training.callbacks import Callback
from zoplat.training.costs import Costs
from zoplat.training.directory import RunDirectory
from zoplat.training.effects import lost_step, unseen_radius
from zoplat.training.evaluations import Evaluations
from zoplat.training.forgetting import Forgetting
from zoplat.training.journal import Journal, JournalWriter, StepRecord
from zoplat.training.limit import over_inference
from zoplat.training.members import Host
from zoplat.training.meter import Meter
from zoplat.training.opening import open_run
from zoplat.training.ranks import (
    agree_on_weights,
    check_ranks,
    check_records,
    close,
    meet,
    strategy_of,
    tell,
)
from zoplat.training.readings import Readings, merged
from zoplat.training.replay import catch_up, check_start
from zoplat.training.result import Result
from zoplat.training.step import MAX_SKIPPED, Learner
from zoplat.training.summarise import summarise
from zoplat.training.summary import Summary
from zoplat.training.watch import Watch
from zoplat.training.yardstick import Yardstick

SPLITS = ("dev", "test")
"""Splits that are scored before and after training."""
COSTS_EVERY = 5.0
"""Seconds after which the costs so far are written down, checkpoints aside; a killed process loses no more."""
RECORDED_AFTER = 2
"""Passes of one shape after which a session that records them replays them."""


class LiveRun:
    """One run in this process, which is rank 0 where there are several."""

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        callback: Callback,
        exchange: Exchange | None,
        rows: dict[str, Rows],
    ) -> None:
        self.began = time.time()
        self.exchange = exchange
        if exchange:
            exchange.gather([])  # the others may open the model now
        elif config.parallel == "queries":
            self.exchange = Host(directory.path)
        self.config, self.directory, self.callback = config, directory, callback
        self.opened = open_run(config, rows)
        self.session, self.profiler = self.opened.session, self.opened.profiler
        self.losses: list[float] = []
        self.evaluations = Evaluations(self.opened, directory, callback, self.losses)
        self.forgetting = Forgetting(self.opened, directory)
        self.yardstick = Yardstick(config.steps)
        self.watch = Watch(config, self.session, directory, callback)
        self.skipped_in_a_row, self.memory_said = 0, False
        self.meter = Meter()
        self.costs_before, self.passes_before = Costs.read(directory), 0.0
        self.costs_written = time.monotonic()
        self.readings_before = [row for row in directory.read_memory() if row["kind"] == "probe"]
        self.readings = Readings(warn=callback.warned)

    def to_the_end(self) -> Result:
        """Begin the run or go on with it, and finish it."""
        self.callback.opened(self.config, self.session, self.directory.path)
        self.opened.measure_inference()
        self.callback.measured(self.profiler.so_far)
        watched = self.meter.watching(self.session, self.opened.rows["train"])
        self.learner = Learner(
            self.config,
            watched,
            self.opened.objective,
            strategy=self._strategy(),
            tokens_of=self.opened.batches.tokens,
            exchange=self.exchange,
        )
        self._meet()
        recorded, start = self._recorded(), self.learner.progress
        self.forgetting.before()
        before = {split: self.evaluations.baseline(split, start, self.learner.strategy) for split in SPLITS}
        self.journal = self._journal(recorded)
        try:
            self._keep_logged()
            self._loop()
            self._end()
            self._save()
            after = {split: self.evaluations.score(split, self.learner.progress) for split in SPLITS}
            self._keep_logged()
            self.forgetting.after()
            self.journal.check_there()
            summary = self._summary(before, after)
        except BaseException:
            with suppress(OSError):
                self._write_costs()
            raise
        finally:
            self.journal.close()
            self.readings.close()
        self.callback.finished(summary)
        return Result(summary, self.directory.path)

    def _strategy(self) -> str:
        """The evaluation strategy: that of the journal if there is one, because rounding depends on it."""
        journal = self.directory.read_journal()
        own = self.opened.strategy
        return str(journal.header.get("strategy", "")) if journal else strategy_of(self.opened, own)

    def _meet(self) -> None:
        """Let the other ranks catch up with the journal, and see that all have the same."""
        if self.exchange:
            journal = self.directory.read_journal()
            check_ranks(journal, self.config, self.exchange.size)
            check_records(self.exchange, journal)
            self.exchange.share(self.directory.journal.read_bytes()[: journal.bytes] if journal else b"")
            meet(self.exchange, self.learner, self.opened)

    def _end(self) -> None:
        """Settle after the last step; on all ranks."""
        self.session.space.settle()
        if self.exchange:
            self.exchange.end()
            close(self.exchange, self.session, self.learner)

    def _recorded(self) -> Journal | None:
        """The journal in the run directory, None for a new run; the directory is made ready to be written."""
        journal = self.directory.read_journal()
        if journal is not None:
            check_start(journal, self.session, self.directory, self.opened.bound, law_of(self.config.estimator))
            check_batches(journal.header, str(self.directory.path))
            if changed := changed_versions(journal.header, self.session, self.opened.bound["plugins"]):
                self.callback.warned(f"other versions than the run began with: {'; '.join(changed)}")
        if not self.directory.config.exists():
            self.directory.begin(self.config, {**self.session.facts, **self._identity})
        elif self.directory.is_extended_by(self.config):
            self.directory.extend(self.config)
        elif self.directory.is_changed_by(self.config):
            replace_text(self.directory.config, self.config.toml(), lasts=True)
        damaged = self.directory.trim_metrics(len(journal.steps) if journal else 0)
        if damaged:
            self.callback.warned(f"{self.directory.metrics} had {damaged} damaged lines; their scores are lost")
        return journal

    def _journal(self, recorded: Journal | None) -> JournalWriter:
        """A new journal, or the one on record with the learner brought to its end."""
        path, sync_every = self.directory.journal, self.config.sync_every
        if recorded is None:
            return JournalWriter(path, self._header(), sync_every=sync_every)
        with self.profiler.whole("rebuild"):
            recorded = catch_up(self.learner, recorded, self.directory, self.callback.warned)
        if (lost := len(recorded.steps) - self.costs_before.steps) > 0:
            self.callback.warned(
                f"the process before was killed: of its last {lost} steps neither seconds nor memory are on record, so "
                "those of the run are without them"
            )
        for record in recorded.steps:
            self._keep_loss(record)
        progress = self.learner.progress
        self.watch.resume(recorded.steps, progress)
        progress.seconds = max(progress.seconds, self.costs_before.seconds_training)
        progress.joules = max(progress.joules, self.costs_before.joules)
        self.passes_before = self.session.space.passes_over_weights
        self.callback.resumed(progress.step)
        return JournalWriter(path, {}, recorded, sync_every)

    def _header(self) -> dict[str, Any]:
        ranks = {"ranks": self.exchange.size} if self.exchange else {}
        return {**self.opened.header(self.learner.strategy), **ranks}

    @property
    def _identity(self) -> dict[str, Any]:
        return self.opened.identity(self.learner.strategy)

    def _loop(self) -> None:
        progress = self.learner.progress
        while not progress.is_over(self.config) and not (progress.step and self.callback.reason_to_stop()):
            if progress.step and self.learner.is_checkpoint_step:
                self._checkpoint()
                if self.callback.reason_to_stop():
                    break
            self._step()

    def _checkpoint(self) -> None:
        if self.exchange:
            agree_on_weights(self.exchange, self.session, self.learner.progress.step)
        self._save()
        self._write_costs()
        self.evaluations.score("dev", self.learner.progress)
        self.watch.evaluated(self.learner.progress)
        self._keep_logged()

    def _step(self) -> None:
        learner, progress = self.learner, self.learner.progress
        rows = self.opened.batches.at(progress.step)
        bare = self._bare_forward(rows) if self.yardstick.is_due(progress.step) else None
        skipped, passes, joules, began = progress.skipped, progress.passes, self.readings.joules(), time.perf_counter()
        self.watch.before(progress.step)
        record = learner.advance(self.opened.batches, self.profiler)
        seconds = time.perf_counter() - began
        is_counted = self.meter.step(progress.passes - passes, self.config.batch_size)
        self.readings.take(now=False)
        self.journal.append(record)
        self.watch.after(record, learner.slopes, progress)
        if record.step == 0:
            for note in filter(
                None, (unseen_radius(self.config, self.session, record), lost_step(self.session, record))
            ):
                self.callback.warned(note)
        progress.seconds += seconds
        progress.joules += (self.readings.joules() or 0.0) - (joules or 0.0)
        if bare is not None:
            self.yardstick.add(seconds, bare, progress.passes - passes)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if progress.skipped > skipped else 0
        if self.skipped_in_a_row == MAX_SKIPPED:
            raise RunFailed(
                f"{MAX_SKIPPED} steps in a row, up to step {record.step}, could not be made. The last one: "
                f"{learner.skip_reason} Another --lr or --eps may help. The journal is kept in {self.directory.path}."
            )
        self.callback.measured(self.profiler.so_far)
        self._say_memory()
        self._keep_loss(record)
        self.callback.stepped(progress, record.loss)
        self._keep_logged()
        if not is_counted or time.monotonic() - self.costs_written > COSTS_EVERY:
            self._write_costs()

    def _say_memory(self) -> None:
        """Say once where training takes more than inference."""
        if not self.memory_said and (note := over_inference(self.profiler, self.session)):
            self.memory_said = True
            self.callback.warned(note)

    def _bare_forward(self, rows: Sequence[Row]) -> float:
        """Seconds of one forward pass, as inference makes it, on the batch of the step that follows."""
        with self.profiler.phase("yardstick"):
            for _ in range(RECORDED_AFTER if self.session.records else 0):
                self.opened.objective.bare_loss(self.session, rows)
            began = time.perf_counter()
            self.opened.objective.bare_loss(self.session, rows)
            return time.perf_counter() - began

    def _keep_logged(self) -> None:
        """Write down what callbacks have logged since the last time."""
        if numbers := self.callback.take_logged():
            step = self.learner.progress.step
            self.directory.add_logged(step, numbers)
            self.callback.logged(step, numbers)

    def _keep_loss(self, record: StepRecord) -> None:
        if record.loss is not None:
            self.losses.append(record.loss)

    def _save(self) -> None:
        with self.profiler.phase("checkpoint"):
            self.journal.check_there()
            self.journal.sync()
            self.directory.checkpoints.save(self.session, self.learner.progress, self.learner.states)

    def _write_costs(self) -> Costs:
        """Write down what the run has cost so far, in all of its processes."""
        passes = self.session.space.passes_over_weights - self.passes_before
        seconds = time.time() - self.began
        costs = self.costs_before.after(self.profiler, seconds, self.learner.progress, passes, self.meter)
        self.readings.take()
        costs.write(self.directory, self.session.ledger(), merged(self.readings_before, self.readings.rows))
        self.costs_written = time.monotonic()
        return costs

    def _summary(self, before: dict[str, float], after: dict[str, float]) -> Summary:
        """The summary, which is written down."""
        progress, overhead, costs = self.learner.progress, self.yardstick.overhead, self._write_costs()
        outlook = self.watch.outlook(progress)
        joules = round(progress.joules, 3) if self.readings.energy_sources else None
        facts = (self.losses, before, after, overhead, costs, outlook, self.forgetting, joules)
        stopped = "" if progress.is_over(self.config) else self.callback.reason_to_stop()
        summary = summarise(self.opened, self.directory, progress, *facts, stopped=stopped)
        self.directory.write_summary(summary.to_json())
        tell(self.exchange, summary, self.directory.path)
        return summary
