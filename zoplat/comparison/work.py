"""Workers: what makes the trials and runs of a study, beside any number of others that do the same."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from zoplat.comparison.cell import Cell
from zoplat.comparison.claims import claimed
from zoplat.comparison.forecast import Paces, forecast
from zoplat.comparison.planned import FAILURE, FailedRun, PlannedRun
from zoplat.comparison.study import Study
from zoplat.config.run_config import RunConfig
from zoplat.training.summary import Summary

PAUSE = 1.0
"""Seconds after which a worker that has nothing to do looks again for what others have done."""


@dataclass
class Job:
    """A trial or a run of a study.

    Attributes:
        study: it belongs to.
        cell: its cell.
        seed: of a run.
        trial: number of a trial; None for a run.
    """

    study: Study
    cell: Cell
    seed: int
    trial: int | None = None
    _over: bool = field(default=False, repr=False)

    @property
    def claim(self) -> str:
        """What it is called among the claims."""
        return f"{self.cell.key}-{self.seed}" if self.trial is None else f"trials/{self.cell.key}-{self.trial}"

    @property
    def planned(self) -> PlannedRun | None:
        """The run itself; None while the settings are not chosen, or where there were none to choose."""
        if self.trial is not None:
            return self.study.trials_of(self.cell)[self.trial]
        return self.study.run_of(self.cell, self.seed)

    @property
    def expected(self) -> RunConfig | None:
        """Its settings, those that a search will choose aside; None where it does not train."""
        if self.cell.protocol:
            return None
        planned = self.planned
        return planned.config if planned else self.cell.config(self.seed)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        if not self._over:
            planned = self.planned
            self._over = bool(planned.outcome) if planned else self._is_hopeless
        return self._over

    @property
    def _is_hopeless(self) -> bool:
        """Whether all trials that it waits for have failed."""
        ended = self.study.ended_trials(self.cell)
        return len(ended) == self.study.matrix.tune_trials and all(trial.dev is None for trial in ended)

    def retry(self) -> None:
        """Forget that it failed."""
        if planned := self.planned:
            (planned.directory / FAILURE).unlink(missing_ok=True)


def jobs_of(study: Study) -> list[Job]:
    """The trials of a study, then its runs, seed by seed."""
    trials = [
        Job(study, cell, study.matrix.tune_seed, number)
        for number in range(study.matrix.tune_trials)
        for cell in study.cells
        if cell.key in study.ranges
    ]
    seeds, cells = study.matrix.seeds, study.cells
    return trials + [Job(study, cell, seed) for seed in seeds for cell in cells if seed in study.seeds_of(cell)]


class Workers:
    """Some workers of this process.

    Args:
        study: what they work on; it was prepared.
        count: how many.
        say: called with a line when a run begins, and when one fails.
    """

    def __init__(self, study: Study, count: int, say: Callable[[str], None]) -> None:
        self.study, self.count, self.say = study, count, say
        self.jobs = jobs_of(study)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._waits = False

    def retry(self) -> None:
        """Forget failures, so that what failed is tried again."""
        for job in self.jobs:
            job.retry()

    def work(self) -> None:
        """Make what nobody else makes or has made, until all is over.

        Raises:
            KeyboardInterrupt: after the runs of these workers have saved what they did.
            ZoplatError: a directory can't be used.
        """
        with ThreadPoolExecutor(self.count) as pool:
            workers = [pool.submit(self._until_all_is_over) for _ in range(self.count)]
            try:
                wait(workers, return_when=FIRST_EXCEPTION)
            finally:
                self._interrupt()
        for worker in workers:
            worker.result()

    def _interrupt(self) -> None:
        """Have the workers stop, and their runs save what they did; without effect once they are done."""
        with self._lock:
            self._stop.set()
            for process in self._processes:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

    def _until_all_is_over(self) -> None:
        while not self._stop.is_set():
            left = [job for job in self.jobs if not job.is_over]
            if not left:
                return
            if not any(self.made(job) for job in left if not self._stop.is_set()):
                self._stop.wait(PAUSE)

    def made(self, job: Job) -> bool:
        """Make a job, unless somebody else has claimed it; returns whether it was made."""
        planned = job.planned
        if planned is None:
            return False
        with claimed(self.study.claim(job.claim)) as claim:
            if claim is None or job.is_over:
                return False
            self.say(f"{planned}{self._outlook()}")
            result = self._execute(job, planned, claim)
        if isinstance(result, FailedRun):
            self.say(str(result))
        return True

    def _execute(self, job: Job, planned: PlannedRun, claim: int) -> Summary | FailedRun:
        if planned.trial is None:
            return planned.execute(claim, self._running)
        record, cell = self.study.record, job.cell
        record.began(cell.key, planned.trial, self.study.ranges[cell.key], self.study.point(cell, planned.trial))
        result = planned.execute(claim, self._running)
        self._note(job, planned, result)
        return result

    def _note(self, job: Job, planned: PlannedRun, result: Summary | FailedRun) -> None:
        score: float | None
        notes: dict[str, Any] = {
            "directory": str(planned.directory.relative_to(self.study.folder)),
            "seed": planned.config.seed,
        }
        if isinstance(result, FailedRun):
            notes, score = {**notes, "reason": result.reason}, None
        else:
            notes, score = {**notes, "passes": result.forward_passes}, result.dev_after
        self.study.record.ended(job.cell.key, int(planned.trial or 0), score, notes)

    def settle(self) -> None:
        """Bring the database to what the run directories say, where a worker was killed before it could.

        Raises:
            ZoplatError: a run has other settings than those that were chosen, because failed trials were tried again.
        """
        self.study.check()
        for job in self.jobs:
            if job.trial is not None and (planned := job.planned) and (result := planned.outcome):
                ranges, point = self.study.ranges[job.cell.key], self.study.point(job.cell, job.trial)
                if not self.study.record.has_ended(job.cell.key, job.trial):
                    self.study.record.began(job.cell.key, job.trial, ranges, point)
                    self._note(job, planned, result)

    def _running(self, process: subprocess.Popen[str]) -> None:
        """Remember a process, so that it can be interrupted."""
        with self._lock:
            self._processes = {other for other in self._processes if other.poll() is None} | {process}
            if self._stop.is_set():
                process.send_signal(signal.SIGTERM)

    def _outlook(self) -> str:
        """What is left, this run included, and how long that may take with these workers alone."""
        left = [job for job in self.jobs if not job.is_over]
        configs = [config for job in left if (config := job.expected) is not None]
        text = f"  ({len(left)} of {len(self.jobs)} left"
        seconds = forecast(configs, Paces([self.study.folder])).seconds
        return f"{text}, about {duration(seconds / self.count)})" if seconds else f"{text})"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(40), duration(4000), duration(400000)
    ('1 min', '67 min', '111 h')
    """
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
