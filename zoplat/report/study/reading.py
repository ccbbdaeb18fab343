"""Several runs as one comparison: what their files say, grouped by what their numbers depend on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from zoplat.compare.curves import curve
from zoplat.compare.statistics import Scores
from zoplat.compare.table import Group, groups
from zoplat.compare.terms import FinishedRun
from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.predicted import Predicted, read_predictions
from zoplat.training.summary import Summary

COMPARISON = "comparison.json"
STUDY = "study.toml"
"""The settings of a comparison, with which `zoplat compare` makes it again."""
FAILURE = "failure.json"
"""In place of summary.json in the directory of a run that failed."""
TRIALS = "trials"
"""Folder, inside that of a comparison, of the runs by which settings were searched; they are no results."""
RECOMPUTE = "estimator.recompute"
"""Setting of methods that backpropagate: whether activations are made again on the way back."""


@dataclass(frozen=True)
class Method:
    """Runs of one method on one task that may share a mean, with what their files say.

    Attributes:
        group: the runs, one a seed.
        metrics: records of metrics.jsonl of each run; none where the model was scored without training.
        phases: rows of memory.jsonl that are about phases, of each run.
        predictions: of the test rows by step, of each run.
    """

    group: Group
    metrics: tuple[list[dict[str, Any]], ...]
    phases: tuple[list[dict[str, Any]], ...]
    predictions: tuple[dict[int, Predicted], ...]

    @classmethod
    def read(cls, group: Group) -> Method:
        """Read the directories of a group."""
        directories = [run.directory for run in group.runs if run.directory]
        phases = ([row for row in one.read_memory() if row["kind"] == "phase"] for one in directories)
        return cls(
            group,
            tuple(one.read_metrics() for one in directories),
            tuple(phases),
            tuple(read_predictions(one.predictions) for one in directories),
        )

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.group.label

    @property
    def task(self) -> str:
        """The name of its task; of a task in a file, that of the file."""
        return Path(self.group.task).stem

    @property
    def seeds(self) -> int:
        """How many runs there are."""
        return len(self.group.runs)

    @property
    def scores(self) -> list[float]:
        """Test scores after training, in [0, 1], seed by seed."""
        return [run.summary.test_after for run in self.group.runs]

    @property
    def is_trained(self) -> bool:
        """Whether it made steps."""
        return bool(self.group.runs[0].summary.steps)

    @property
    def backpropagates(self) -> bool:
        """Whether a phase of its steps is backpropagation."""
        return any(row["phase"] == "gradient" for rows in self.phases for row in rows)

    @property
    def is_yardstick(self) -> bool:
        """Whether it trains LoRA by backpropagation with checkpointed activations, the usual way to save memory."""
        return self.group.terms.get(RECOMPUTE) == "True" and self.group.runs[0].summary.tune == "lora"

    def mean(self, name: str) -> float | None:
        """Mean over seeds of a field of the summary; None where a run has none."""
        values = [getattr(run.summary, name) for run in self.group.runs]
        return None if None in values else fmean(values)

    def same(self, name: str) -> Any:
        """A field of the summary that is the same for all seeds; None where it is not."""
        values = {getattr(run.summary, name) for run in self.group.runs}
        return values.pop() if len(values) == 1 else None

    def peak(self, name: str) -> int | None:
        """Most bytes over seeds, of the accelerator where it has memory of its own; None where nothing was measured.

        Args:
            name: "step_peak_bytes" or "forward_peak_bytes".
        """
        peaks = [getattr(run.summary, name) for run in self.group.runs]
        return max(peak.device or peak.host for peak in peaks) if all(peaks) else None

    def curves(self, axis: str) -> list[list[tuple[float, float]]]:
        """Dev scores over "passes" or "seconds", of each run that has some."""
        return [points for metrics in self.metrics if len(points := curve(metrics, axis)) > 1]


@dataclass(frozen=True)
class Study:
    """A comparison.

    Attributes:
        methods: task by task.
        failed: runs that failed: estimator, task, seed and reason.
        violations: runs that broke the terms of the comparison and are left out: the same.
        unfinished: how many runs were begun and are neither finished nor failed.
        chosen: what a search has chosen: label, task, settings, dev and trials.
        command: that made it; empty where it is not on record.
    """

    methods: tuple[Method, ...]
    failed: list[dict[str, Any]] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)
    unfinished: int = 0
    chosen: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Study:
        """The runs in folders of comparisons, and in run directories.

        Raises:
            ZoplatError: a path is neither, or a run that was named is not finished.
        """
        records = {path: _record(path / COMPARISON) for path in paths}
        named = {run: name for path, record in records.items() for run, name in _named(path, record).items()}
        runs = [FinishedRun.of(_finished(path), RunDirectory(path), name) for path, name in named.items()]

        def all_of(key: str) -> list[dict[str, Any]]:
            return [row for record in records.values() for row in record.get(key) or []]

        return cls(
            tuple(Method.read(group) for group in groups(runs)),
            failed=all_of("failed"),
            violations=all_of("violations"),
            unfinished=sum(map(_unfinished, paths)),
            chosen=all_of("chosen"),
            command=next(filter(None, (_command(path, record) for path, record in records.items())), ""),
        )

    @cached_property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(dict.fromkeys(method.task for method in self.methods))

    @cached_property
    def labels(self) -> list[str]:
        """Methods, the best mean over its tasks first."""
        names = dict.fromkeys(method.label for method in self.methods)
        return sorted(names, key=lambda label: -fmean(fmean(scores) for scores in self.scores(label).values()))

    @cached_property
    def everywhere(self) -> list[str]:
        """Labels that have scores on every task, and can be compared over all of them."""
        return [label for label in self.labels if len(self.scores(label)) == len(self.tasks)]

    def scores(self, label: str) -> Scores:
        """Test scores of a method by task."""
        return {method.task: method.scores for method in self.methods if method.label == label}

    def on(self, task: str) -> list[Method]:
        """The methods on a task, the best mean first."""
        own = [method for method in self.methods if method.task == task]
        return sorted(own, key=lambda method: -fmean(method.scores))

    @property
    def baseline(self) -> str:
        """The label that others are compared with: MeZO where it is there, else the one with the lowest mean."""
        names = {method.label: method.group.estimator for method in self.methods}
        own = [label for label in self.everywhere if names[label] == "mezo"]
        return next(iter(own or reversed(self.everywhere)), "")

    @property
    def title(self) -> str:
        """Methods, tasks, models and the day on which the last run ended."""
        runs = [run for method in self.methods for run in method.group.runs]
        newest = max((run.directory.summary.stat().st_mtime for run in runs if run.directory), default=0.0)
        models = dict.fromkeys(str(run.summary.model) for run in runs)
        count = f"{len(self.labels)} method{'' if len(self.labels) == 1 else 's'} on {_listed(self.tasks)}"
        return f"{count} · {_listed(models)} · {len(runs)} runs · {datetime.fromtimestamp(newest):%Y-%m-%d}"


def runs_in(path: Path) -> list[Path]:
    """A run directory as it is, or those of a comparison without its trials and those that did not finish.

    Raises:
        ZoplatError: there is no run.
    """
    if (path / "config.toml").exists():
        return [path]
    found = sorted(file.parent for file in path.rglob("summary.json") if (file.parent / "config.toml").exists())
    runs = [run for run in found if TRIALS not in run.relative_to(path).parts]
    if not runs:
        raise ZoplatError(
            f"{path} is neither a run directory nor a folder with finished runs. `zoplat list runs` shows runs, and "
            "`zoplat compare` makes several."
        )
    return runs


def _named(path: Path, record: Mapping[str, Any]) -> dict[Path, str]:
    """The runs of a folder that count, with their names in the table; empty for that of the estimator."""
    if record.get("runs"):
        return {path / run["directory"]: str(run.get("label") or "") for run in record["runs"]}
    return dict.fromkeys(runs_in(path), "")


def _command(path: Path, record: Mapping[str, Any]) -> str:
    """What makes a comparison again; empty where that is not on record."""
    if (path / STUDY).exists():
        config, out = (shlex.quote(str(place)) for place in (path / STUDY, f"{path}-again"))
        return f"zoplat compare --config {config} --out {out}"
    return str(record.get("command") or "")


def _unfinished(path: Path) -> int:
    """Runs in the folder of a comparison that were begun, and neither ended nor failed."""
    begun = {file.parent for file in path.rglob("config.toml")} - {path}
    return sum(
        TRIALS not in run.relative_to(path).parts
        and not (run / "summary.json").exists()
        and not (run / FAILURE).exists()
        for run in begun
    )


def _finished(path: Path) -> Summary:
    summary = RunDirectory.existing(path).read_summary()
    if summary is None or summary.status != "done" or summary.test_after is None:
        raise ZoplatError(f"{path} is not finished; `zoplat run --resume --out {path}` goes on with it.")
    return summary


def _record(path: Path) -> dict[str, Any]:
    """The content of comparison.json; nothing where there is none.

    Raises:
        ZoplatError: it is damaged.
    """
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return dict(record)
    except (OSError, ValueError, TypeError, RecursionError):
        raise ZoplatError(f"{path} is damaged; delete it, and the report is made from the runs alone.") from None


def _listed(names: Iterable[str]) -> str:
    """Names with commas, and `and` before the last; of many, their number."""
    some = [*names]
    if len(some) > 4:
        return f"{len(some)} of them"
    return " and ".join(filter(None, (", ".join(some[:-1]), *some[-1:])))
