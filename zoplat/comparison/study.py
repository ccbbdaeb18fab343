"""A comparison as a study: its cells, their trials and runs, and what is known of them so far.

A study is a folder. Whoever can write it can work on it, from any process and any machine:

    STUDY/
    ├── study.toml           the matrix, resolved; `--config STUDY/study.toml` or `--join STUDY` gives it again
    ├── study.db             the trials as Optuna keeps them, unless --storage names another database; no file without
    │                        a search
    ├── METHOD-SEED/         one run directory for each method and seed; in folders TASK/MODEL/TUNING, as far as there
    │                        are several of them
    ├── trials/METHOD-N/     one run directory for each trial N of a search, in the same folders; METHOD-0 has the usual
    │                        settings
    ├── claims/              locks: who makes which run at the moment
    ├── comparison.json      see `zoplat.comparison.outcome`
    └── comparison.md        the same as tables for people

A run directory has what every run has, and failure.json in place of summary.json where it failed. What is not in run
directories can be made again from them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from zoplat.comparison.cell import Cell
from zoplat.comparison.claims import claimed
from zoplat.comparison.matrix import Matrix
from zoplat.comparison.planned import FailedRun, PlannedRun
from zoplat.comparison.plugins import check_unchanged, versions
from zoplat.comparison.trials import Record, point
from zoplat.config.layers import read_toml
from zoplat.core.errors import ZoplatError
from zoplat.core.search import Between, OneOf
from zoplat.paths import replace_text
from zoplat.tasks.files import check_folder
from zoplat.training.binding import BUDGET
from zoplat.training.readings import check_energy

FILE = "study.toml"
WITHOUT: dict[str, Any] = {name: None for name in BUDGET if name != "max_passes"}
"""The budgets that trials with passes of their own don't have."""


@dataclass(frozen=True)
class Trial:
    """How a trial of a search ended.

    Attributes:
        number: from 0.
        settings: dotted paths → values.
        dev: score on dev after training; None where it failed.
        passes: forward passes that it took.
        reason: why it failed; empty where it did not.
        directory: its run directory, relative to the folder of the study.
    """

    number: int
    settings: dict[str, Any]
    dev: float | None
    passes: int
    reason: str
    directory: str


@dataclass(frozen=True)
class Chosen:
    """The settings that a search has chosen for a cell.

    Attributes:
        settings: dotted paths → values; those of the trial with the best score on dev, the first one of equals.
        trial: its number.
        dev: its score on dev.
        trials: all of them.
    """

    settings: dict[str, Any]
    trial: int
    dev: float
    trials: tuple[Trial, ...]

    @property
    def passes(self) -> int:
        """Forward passes of all trials."""
        return sum(trial.passes for trial in self.trials)


@dataclass
class Study:
    """A comparison in a folder.

    Attributes:
        folder: of the study.
        matrix: what is compared.
        storage: URL of the database of trials; a file in the folder when empty.
        plugins: files whose parts take part, registered already.
    """

    folder: Path
    matrix: Matrix
    storage: str = ""
    plugins: tuple[Path, ...] = ()

    @classmethod
    def joined(cls, folder: Path, storage: str = "", plugins: tuple[Path, ...] = ()) -> Study:
        """The study in a folder; raises ZoplatError where there is none."""
        if not (folder / FILE).exists():
            raise ZoplatError(f"--join {folder}: there is no study; it has no {FILE}.")
        return cls(folder, Matrix.of({"config": folder / FILE}, {}), storage, plugins)

    @cached_property
    def cells(self) -> list[Cell]:
        """Its cells."""
        return self.matrix.cells()

    @cached_property
    def ranges(self) -> dict[str, dict[str, Between | OneOf]]:
        """For each cell that is searched, where; by the cell's key."""
        if not self.matrix.tune_trials:
            return {}
        return {cell.key: found for cell in self.cells if (found := cell.ranges())}

    @cached_property
    def name(self) -> str:
        """What it is called in a database; the study was prepared."""
        return str(read_toml(self.folder / FILE)["study"]["name"])

    @cached_property
    def record(self) -> Record:
        """The trials in the database; the study was prepared."""
        return Record(self.storage, self.name) if self.storage else Record.beside(self.folder, self.name)

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """The seeds of the runs of a cell: the first one where no other gives another result."""
        return self.matrix.seeds if cell.samples_by_seed() else self.matrix.seeds[:1]

    def prepare(self) -> None:
        """Check all runs that are there, and write study.toml and the tables of the database, one process at a time.

        Raises:
            ZoplatError: settings that no run could have; a run that was begun with other ones; another database.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        with claimed(self.claim("study"), waits=True):
            path, known = self.folder / FILE, self._known
            database = _without_password(self.storage) if self.ranges else ""
            if known.get("storage", database) != database and self.ranges:
                raise ZoplatError(
                    f"--storage: the trials of {self.folder} are in {known['storage'] or 'study.db'}, "
                    f"not in {database or 'study.db'}."
                )
            own = {"name": known.get("name") or f"{self.folder.name}-{secrets.token_hex(4)}"}
            if self.ranges:
                own["storage"] = database
            if self.plugins:
                own["plugins"] = versions(self.plugins)
            text = tomli_w.dumps({**self.matrix.table(), "study": {**known, **own}})
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                replace_text(path, text)
            if self.ranges:
                self.record.prepare()

    def check(self) -> None:
        """Raise ZoplatError for settings that no run could have, or for a run that was begun with other ones."""
        check_unchanged(self._known.get("plugins", {}), self.plugins, self.folder)
        for cell in self.cells:
            config = cell.config(self.matrix.seeds[0])
            if config.max_joules:
                check_energy()
            runs = [*self.trials_of(cell), *(self.run_of(cell, seed) for seed in self.seeds_of(cell))]
            for run in runs:
                if run:
                    run.check()
            if config.data and not all(run and run.outcome for run in runs):
                check_folder(Path(config.data))

    @property
    def _known(self) -> dict[str, Any]:
        """What study.toml says of the study itself; nothing before it was prepared."""
        path = self.folder / FILE
        return dict(read_toml(path).get("study", {})) if path.exists() else {}

    def remarks(self) -> list[str]:
        """What the user should know before the work begins, one line each."""
        lines = []
        trained = [cell for cell in self.cells if not cell.protocol]
        if self.matrix.tune_trials:
            fixed = dict.fromkeys(cell.label for cell in trained if cell.key not in self.ranges)
            lines += [f"{label}: nothing to search, its settings are given or it declares none" for label in fixed]
            alone = dict.fromkeys(cell.label for cell in trained if cell.key in self.ranges and cell.declares_nothing())
            lines += [f"{label}: it declares no ranges, so that its step size alone is searched" for label in alone]
        return lines

    def claim(self, key: str) -> Path:
        """The file of a claim."""
        return self.folder / "claims" / f"{key}.lock"

    def run_of(self, cell: Cell, seed: int) -> PlannedRun | None:
        """A run with the settings that the cell's search chose; None while it goes on, or where it chose nothing."""
        chosen = self.chosen(cell) if cell.key in self.ranges else None
        if cell.key in self.ranges and not chosen:
            return None
        directory = self.folder / cell.folder / f"{cell.method}-{seed}"
        if directory not in self._runs:
            config = cell.config(seed, chosen.settings if chosen else None)
            self._runs[directory] = PlannedRun(
                config, cell.protocol, directory, cell.label, home=self.folder, plugins=self.plugins
            )
        return self._runs[directory]

    @cached_property
    def _runs(self) -> dict[Path, PlannedRun]:
        """The runs whose settings are known, by directory."""
        return {}

    def point(self, cell: Cell, number: int) -> dict[str, Any]:
        """The settings that a trial of a cell tries."""
        return self._points[cell.key][number]

    @cached_property
    def _points(self) -> dict[str, list[dict[str, Any]]]:
        """The points of each cell that is searched."""
        searched = [(cell, cell.usual()) for cell in self.cells if cell.key in self.ranges]
        numbers = range(self.matrix.tune_trials)
        return {
            cell.key: [point(self.ranges[cell.key], usual, number) for number in numbers] for cell, usual in searched
        }

    def trials_of(self, cell: Cell) -> list[PlannedRun]:
        """The trials of a cell; none where nothing is searched."""
        return self._trials.get(cell.key, [])

    @cached_property
    def _trials(self) -> dict[str, list[PlannedRun]]:
        """The trials of each cell that is searched."""
        searched, numbers = [cell for cell in self.cells if cell.key in self.ranges], range(self.matrix.tune_trials)
        return {cell.key: [self._trial(cell, number) for number in numbers] for cell in searched}

    def _trial(self, cell: Cell, number: int) -> PlannedRun:
        config = replace(cell.config(self.matrix.tune_seed, self.point(cell, number)), forgetting=False)
        if self.matrix.trial_passes:
            config = replace(config, max_passes=self.matrix.trial_passes, **WITHOUT)
        directory = self.folder / "trials" / cell.folder / f"{cell.method}-{number}"
        return PlannedRun(config, None, directory, cell.label, number, self.folder, self.plugins)

    def ended_trials(self, cell: Cell) -> list[Trial]:
        """The trials of a cell that are over."""
        ended = []
        for run in self.trials_of(cell):
            outcome, number = run.outcome, int(run.trial or 0)
            if outcome:
                where, settings = str(run.directory.relative_to(self.folder)), self.point(cell, number)
                if isinstance(outcome, FailedRun):
                    ended.append(Trial(number, settings, None, run.passes_so_far, outcome.reason, where))
                else:
                    ended.append(Trial(number, settings, outcome.dev_after, outcome.forward_passes, "", where))
        return ended

    def chosen(self, cell: Cell) -> Chosen | None:
        """What the search of a cell chose; None while it goes on, or where all of its trials failed."""
        if cell.key not in self._chosen:
            trials = self.ended_trials(cell)
            if len(trials) < self.matrix.tune_trials:
                return None
            self._chosen[cell.key] = choice(trials)
        return self._chosen[cell.key]

    @cached_property
    def _chosen(self) -> dict[str, Chosen | None]:
        """By the key of a cell, what its search chose, once it is over."""
        return {}


def choice(trials: list[Trial]) -> Chosen | None:
    """The trial with the best score on dev, the first one of equals; None where all failed."""
    scored = [(trial, trial.dev) for trial in trials if trial.dev is not None]
    if not scored:
        return None
    best, dev = max(scored, key=lambda pair: pair[1])
    return Chosen(best.settings, best.number, dev, tuple(trials))


def _without_password(url: str) -> str:
    """The URL of a database as it may be written down."""
    if not url:
        return ""
    from sqlalchemy.engine import make_url

    return str(make_url(url).render_as_string(hide_password=True))
