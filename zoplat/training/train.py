"""`train`: one run in a directory of its own, alone or with other processes, within a limit if it has one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from zoplat.config.run_config import RunConfig
from zoplat.core.errors import Interrupted, ZoplatError, is_out_of_memory
from zoplat.core.exchange import Exchange
from zoplat.core.notices import notice
from zoplat.tasks.data import Rows
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.limit import Limit, confined, out_of_memory
from zoplat.training.live_run import LiveRun
from zoplat.training.lock import locked, locked_unused
from zoplat.training.ranks import (
    failing_together,
    for_ranks,
    help_out,
    open_exchange,
    tell,
)
from zoplat.training.result import Result
from zoplat.training.setup import check, check_out
from zoplat.training.summary import Summary
from zoplat.training.tracking import tracked, trackers_named

RANK_TIMEOUT = 1800.0
"""Seconds; longer than an evaluation takes, which the other ranks wait for."""


def train(
    config: RunConfig,
    out: Path | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    report_to: str | Sequence[str] | None = None,
    limit: Limit | None = None,
    rank_timeout: float = RANK_TIMEOUT,
) -> Result:
    """Train until the budget is spent; in a process that a launcher has started, together with the others.

    Args:
        config: the settings.
        out: the run directory; None for a new one under runs/.
        resume: continue the run in `out` if there is one.
        callback: is notified of the events of the run.
        report_to: names of trackers; None for those that the run in `out` was begun with.
        limit: of its memory, as `plan.within` finds it for `config.memory`.
        rank_timeout: seconds after which a process of the same run that does not answer is given up.

    Raises:
        ZoplatError: its exit_status says whether the settings were wrong (2) or the run failed (1).
        OutOfMemory: it failed for want of memory.
        Interrupted: after everything was written; `resume` goes on from there.
        KeyboardInterrupt: before anything was.
    """
    if config.memory and limit is None:
        raise ZoplatError(f"A limit (memory = {config.memory!r}) is kept by `zoplat run` only. Leave it out here.")
    exchange = open_exchange(config, rank_timeout)
    with failing_together(exchange):
        config = for_ranks(config, exchange.size if exchange else 1)
        if exchange and exchange.rank:
            return Result(*help_out(config, exchange, out if resume else None))
        return _train(config, out, resume, callback, report_to, limit, exchange)


def _train(
    config: RunConfig,
    out: Path | None,
    resume: bool,
    callback: Callback | None,
    report_to: str | Sequence[str] | None,
    limit: Limit | None,
    exchange: Exchange | None,
) -> Result:
    """The run, in the only process or in rank 0."""
    rows = check(config, out, resume)
    trackers = trackers_named(report_to, out if resume else None)
    if out and (summary := _finished(RunDirectory(out), config)):
        return _as_before(summary, out, exchange)
    name = f"{Path(config.task).stem}-{config.estimator_name}-{config.seed}"
    with locked(out) if out else locked_unused(Path("runs") / name) as folder:
        directory = RunDirectory(folder)
        check_out(directory, config, resume)  # again: another process may have written it until it was locked
        if summary := _finished(directory, config):
            return _as_before(summary, folder, exchange)
        try:
            with tracked(callback or Callback(), trackers) as watcher:
                return _run(config, directory, watcher, limit, exchange, rows)
        except OSError as problem:
            if failure := directory.failure(problem):
                raise failure from problem
            raise
        except KeyboardInterrupt:
            if directory.config.exists():
                raise Interrupted(directory.path) from None
            raise


def _as_before(summary: Summary, folder: Path, exchange: Exchange | None) -> Result:
    """The result of a run that was finished already."""
    if exchange:
        exchange.end()
    if lost := RunDirectory(folder).lost_steps(summary):
        notice(f"the run is over, and its scores are those on record. {lost}")
    tell(exchange, summary, folder)
    return Result(summary, folder)


def _finished(directory: RunDirectory, config: RunConfig) -> Summary | None:
    """The summary of a run that needs no more steps; None too where it is damaged or lacks something."""
    try:
        summary = directory.read_summary()
    except ZoplatError:
        return None
    is_done = summary and summary.is_whole and summary.status == "done" and not directory.is_extended_by(config)
    return summary if is_done else None


def _run(
    config: RunConfig,
    directory: RunDirectory,
    callback: Callback,
    limit: Limit | None,
    exchange: Exchange | None,
    rows: dict[str, Rows],
) -> Result:
    """Make a run within its limit; raises OutOfMemory where memory is not enough."""
    run: LiveRun | None = None
    try:
        with config.device.sparing() if limit else nullcontext():
            run = LiveRun(config, directory, callback, exchange, rows)
        with confined(config, limit, run.profiler) as enforced:
            if limit:
                callback.limited(limit.text(enforced))
            return run.to_the_end()
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        phase, session = (run.profiler.failed or "other", run.session) if run else ("open", None)
        journal = directory.read_journal()
        failure = out_of_memory(problem, phase, session, limit, directory.path, len(journal.steps) if journal else None)
    run = session = None
    raise failure  # out here, where nothing holds what the run had in memory
