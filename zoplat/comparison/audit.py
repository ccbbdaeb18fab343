"""Whether a comparison was fair: what the runs themselves recorded, against what all of them were promised.

The same rows, starting weights, batches and settings beside the method; no forward pass beside those that the oracle
counted; no row in training that is no training row; settings chosen by scores on dev. A run for which that does not
hold is reported and left out of every mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoplat.comparison.cell import Cell
from zoplat.comparison.planned import PlannedRun
from zoplat.comparison.study import Chosen
from zoplat.comparison.terms import DIGITS
from zoplat.training.binding import BUDGET
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary

SHARED = ("start_digest", "model_digest", "metric", "dtype", "seed", "head", "base")
"""Keys of a journal's header that runs of one task, model, tuning and seed have in common, its rows aside."""
SETTINGS = ("batch_size", "micro_batch_size", "objective", "template", *BUDGET, "limit")
"""Settings that they have in common."""
ROWS = "rows of "
NAMES = {"start_digest": "starting weights", "model_digest": "model"}
ROUNDING = 1e-12
"""By how much a score in a database may differ from the one in a run directory."""


@dataclass(frozen=True)
class Violation:
    """A run that broke the terms of a comparison.

    Attributes:
        estimator: the method's name in the table.
        task, seed: which run.
        directory: its run directory, relative to the folder of the study.
        reason: what it did.
    """

    estimator: str
    task: str
    seed: int
    directory: str
    reason: str

    def __str__(self) -> str:
        return f"{self.estimator}, {self.task}, {self.directory}: {self.reason}"


@dataclass(frozen=True)
class Ended:
    """A run or a trial of a study that ended well.

    Attributes:
        cell: its cell.
        run: as it was planned.
        summary: of it.
    """

    cell: Cell
    run: PlannedRun
    summary: Summary

    def violation(self, reason: str) -> Violation:
        """A violation of this run."""
        where = str(self.run.directory.relative_to(self.run.home))
        return Violation(self.cell.label, self.run.config.task, self.run.config.seed, where, reason)


def violations(ended: Sequence[Ended]) -> list[Violation]:
    """What runs and trials did that they may not do; evaluations without training can't."""
    trained = [entry for entry in ended if entry.cell.protocol is None]
    found = [entry.violation(reason) for entry in trained for reason in _outside(entry.summary)]
    for group in _grouped(trained, lambda e: (e.cell.tune, e.run.config.seed, e.run.trial is None)):
        found += _apart(group)
    undrawn = [entry for entry in trained if entry.run.config.per_class is None]
    for group in _grouped(undrawn, lambda e: ()):
        found += _apart(group, lambda name: name == "model_digest" or name.startswith(ROWS))
    return list(dict.fromkeys(found))


def _grouped(ended: Sequence[Ended], key: Callable[[Ended], Hashable]) -> Iterable[list[Ended]]:
    """Runs of one task, one model and one key."""
    groups: dict[Hashable, list[Ended]] = {}
    for entry in ended:
        groups.setdefault((entry.cell.task, entry.cell.model, key(entry)), []).append(entry)
    return groups.values()


def _outside(summary: Summary) -> Iterator[str]:
    """Passes and rows that the oracle did not give."""
    if summary.passes_outside:
        yield (
            f"passes outside the budget: the model made {summary.passes_outside:g} forward passes in its steps that "
            f"are not among the {summary.forward_passes} that were counted"
        )
    if summary.foreign_rows:
        yield f"in its steps the model read {summary.foreign_rows} rows that are no training rows, such as test rows"


def _apart(group: Sequence[Ended], is_meant: Callable[[str], bool] = lambda name: True) -> Iterator[Violation]:
    """The runs of a group that differ from most in what all have in common, of the terms that are meant."""
    terms = [_terms(RunDirectory(entry.run.directory)) for entry in group]
    for name in dict.fromkeys(name for own in terms for name in own if is_meant(name)):
        usual, _ = Counter(own.get(name) for own in terms).most_common(1)[0]
        for entry, own in zip(group, terms, strict=True):
            if own.get(name) != usual:
                yield entry.violation(f"{NAMES.get(name, name)}: {own.get(name)}, and {usual} in most other runs")


def _terms(directory: RunDirectory) -> dict[str, str]:
    """What a run has in common with those of other methods, as text."""
    journal = directory.read_journal()
    header: Mapping[str, Any] = journal.header if journal else {}
    settings = header.get("settings") or directory.read_settings()
    terms = {name: str(header.get(name))[: DIGITS + len("sha256:")] for name in SHARED}
    terms |= {f"{ROWS}{split}": text for split, text in (header.get("rows") or {}).items()}
    return terms | {name: str(settings.get(name)) for name in SETTINGS}


def selection(chosen: Chosen, noted: Mapping[int, float], tests: Mapping[int, float]) -> Iterator[str]:
    """What is wrong with the scores by which the settings of a cell were chosen, according to the database.

    Args:
        chosen: by the run directories.
        noted: by number of the trial, the score in the database.
        tests: by number of the trial, the score on test.
    """
    for trial in chosen.trials:
        score = noted.get(trial.number)
        if trial.dev is None or score is None or abs(score - trial.dev) <= ROUNDING:
            continue
        is_test = abs(score - tests[trial.number]) <= ROUNDING
        what = ", its score on test: settings are chosen on dev" if is_test else ""
        yield f"trial {trial.number} scored {trial.dev:g} on dev, and the database has {score:g}{what}"


def innocent(ended: Iterable[Ended], found: Iterable[Violation]) -> list[Ended]:
    """The runs, trials aside, that no violation names."""
    named = {violation.directory for violation in found}
    runs = (entry for entry in ended if entry.run.trial is None)
    return [entry for entry in runs if str(entry.run.directory.relative_to(entry.run.home)) not in named]
