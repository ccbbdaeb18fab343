"""What came of a study: rows of a table, failures, violations, chosen settings; as comparison.json and comparison.md.

comparison.json is one object. Keys may be added; these keep their meaning:

    study       name, seeds, tune_trials, tune_seed, trial_passes
    rows        one object for each method, task and terms: see `zoplat.comparison.table`; `search_passes` are the
                forward passes of all trials of its search, null without one
    runs        those that are in the rows: directory (relative to the study), label, estimator, task, model, tune, seed
    failed      estimator, task, seed, reason, trial (null for a run), directory
    violations  estimator, task, seed, directory, reason: runs that are left out of the rows
    chosen      label, task, model, tune, settings (dotted path → value), dev, trial, passes, ranges (dotted path →
                text) and trials: number, settings, dev (null where it failed), passes, reason, directory
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoplat.comparison.audit import Ended, Violation, innocent, selection, violations
from zoplat.comparison.cell import Cell
from zoplat.comparison.claims import claimed
from zoplat.comparison.planned import FailedRun
from zoplat.comparison.published import Published
from zoplat.comparison.study import Chosen, Study
from zoplat.comparison.table import markdown, markdown_table, table
from zoplat.comparison.terms import FinishedRun
from zoplat.core.plain_json import to_text
from zoplat.paths import replace_text
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison.

    Attributes:
        rows: of the table.
        failed: runs and trials that failed.
        violations: runs and trials that broke the terms.
        chosen: by cell, the settings that a search chose.
        runs: those in the rows.
        study: what was asked for.
        notes: what else a reader of the table has to know.
    """

    rows: list[dict[str, Any]]
    failed: list[FailedRun]
    violations: list[Violation]
    chosen: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    study: dict[str, Any]
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, study: Study) -> Outcome:
        """The outcome of a study, as far as it is over."""
        ended, failed = _ended(study)
        chosen = {cell.key: own for cell in study.cells if cell.key in study.ranges and (own := study.chosen(cell))}
        found = violations(ended) + list(_wrong_choices(study, chosen, ended))
        left = innocent(ended, found)
        rows = table(FinishedRun.of(e.summary, RunDirectory(e.run.directory), e.cell.label) for e in left)
        searched = [cell for cell in study.cells if cell.key in chosen]
        passes = {(cell.label, task_of(cell)): chosen[cell.key].passes for cell in searched}
        rows = [{**row, "search_passes": passes.get((row["method"], row["task"]))} for row in rows]
        choices = [_choice(study, cell, chosen[cell.key]) for cell in searched]
        matrix = study.matrix
        asked = {name: getattr(matrix, name) for name in ("seeds", "tune_trials", "tune_seed", "trial_passes")}
        return cls(rows, failed, found, choices, [_run(entry) for entry in left], {"name": study.name, **asked})

    def to_json(self) -> dict[str, Any]:
        """Plain values by key."""
        return {
            "study": self.study,
            "rows": self.rows,
            "runs": self.runs,
            "failed": [asdict(run) for run in self.failed],
            "violations": [asdict(violation) for violation in self.violations],
            "chosen": self.chosen,
        }

    def markdown(self, published: Published | None = None) -> str:
        """The tables for people: scores and costs, and the chosen settings where there was a search."""
        text = markdown(self.rows, published) if self.rows else ""
        text += "".join(f"\n{note}\n" for note in self.notes)
        if not self.chosen:
            return text
        head = ["method", "task", "chosen settings", "dev score", "trials", "failed trials", "passes of the search"]
        body = [
            [
                choice["label"],
                Path(choice["task"]).stem,
                settings_text(choice["settings"]),
                f"{100 * choice['dev']:.1f}",
                str(len(choice["trials"])),
                str(sum(trial["dev"] is None for trial in choice["trials"])),
                f"{choice['passes']:,}",
            ]
            for choice in self.chosen
        ]
        return f"{text}\n{markdown_table(head, body)}"

    def write(self, study: Study, published: Published | None = None) -> None:
        """Write comparison.json and comparison.md; one process at a time."""
        with claimed(study.claim("comparison"), waits=True):
            replace_text(study.folder / "comparison.json", to_text(self.to_json(), indent=1) + "\n")
            replace_text(study.folder / "comparison.md", self.markdown(published))


def _ended(study: Study) -> tuple[list[Ended], list[FailedRun]]:
    """The runs and trials that ended well, and those that failed."""
    ended: list[Ended] = []
    failed: list[FailedRun] = []
    for cell in study.cells:
        trials = study.trials_of(cell)
        runs = [(seed, study.run_of(cell, seed)) for seed in study.seeds_of(cell)]
        for run in [*trials, *(run for _, run in runs if run)]:
            outcome = run.outcome
            if isinstance(outcome, Summary):
                ended.append(Ended(cell, run, outcome))
            elif outcome:
                failed.append(outcome)
        if trials and all(isinstance(trial.outcome, FailedRun) for trial in trials):
            reason = f"all {len(trials)} trials of its search failed"
            failed += [FailedRun(cell.label, task_of(cell), seed, reason) for seed, _ in runs]
    return ended, failed


def _wrong_choices(study: Study, chosen: Mapping[str, Chosen], ended: Sequence[Ended]) -> Iterator[Violation]:
    """What is wrong with the scores by which settings were chosen: for every run that has them."""
    for cell in study.cells:
        if cell.key in chosen:
            own = [entry for entry in ended if entry.cell.key == cell.key]
            tests = {int(e.run.trial): e.summary.test_after for e in own if e.run.trial is not None}
            reasons = list(selection(chosen[cell.key], study.record.scores(cell.key), tests))
            yield from (e.violation(reason) for reason in reasons for e in own if e.run.trial is None)


def _choice(study: Study, cell: Cell, chosen: Chosen) -> dict[str, Any]:
    return {
        "label": cell.label,
        "task": task_of(cell),
        "model": cell.model or None,
        "tune": cell.tune or None,
        **asdict(chosen),
        "passes": chosen.passes,
        "ranges": {path: str(where) for path, where in study.ranges[cell.key].items()},
    }


def _run(entry: Ended) -> dict[str, Any]:
    config = entry.run.config
    return {
        "directory": str(entry.run.directory.relative_to(entry.run.home)),
        "label": entry.cell.label,
        "estimator": entry.summary.estimator,
        "task": config.task,
        "model": config.model,
        "tune": config.tune.name,
        "seed": config.seed,
    }


def task_of(cell: Cell) -> str:
    """The task of a cell, as its runs name it."""
    return cell.config(0).task


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings for people.

    >>> settings_text({"rule.lr": 0.001, "queries": 4})
    'rule.lr 0.001, queries 4'
    """
    texts = {path: f"{value:g}" if type(value) is float else str(value) for path, value in settings.items()}
    return ", ".join(f"{path} {text}" for path, text in texts.items())
