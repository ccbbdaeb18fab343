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

from zoplat.comparison.curves import curve
from zoplat.comparison.plugins import shown
from zoplat.comparison.statistics import Scores
from zoplat.comparison.table import Group, groups
from zoplat.config.layers import read_toml
from zoplat.core.errors import ZoplatError
from zoplat.report.study.runs import TRIALS, ReportedRun, runs_in
from zoplat.training.directory import RunDirectory

COMPARISON = "comparison.json"
STUDY = "study.toml"
"""The settings of a comparison, with which `zoplat compare` makes it again."""
FAILURE = "failure.json"
"""In place of summary.json in the directory of a run that failed."""
RECOMPUTE = "estimator.recompute"
"""Setting of methods that backpropagate: whether activations are made again on the way back."""


@dataclass(frozen=True)
class Method:
    """Runs of one method on one task that may share a mean.

    Attributes:
        group: the runs, one a seed.
    """

    group: Group[ReportedRun]

    @property
    def runs(self) -> tuple[ReportedRun, ...]:
        """The runs, one a seed."""
        return self.group.runs

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
        return len(self.runs)

    @property
    def scores(self) -> list[float]:
        """Test scores after training, in [0, 1], seed by seed."""
        return [run.summary.test_after for run in self.runs]

    @property
    def is_trained(self) -> bool:
        """Whether it made steps."""
        return bool(self.runs[0].summary.steps)

    @property
    def backpropagates(self) -> bool:
        """Whether a phase of its steps is backpropagation."""
        return any(row["phase"] == "gradient" for run in self.runs for row in run.phases)

    @property
    def is_yardstick(self) -> bool:
        """Whether it trains LoRA by backpropagation with checkpointed activations, the usual way to save memory."""
        return self.group.terms.get(RECOMPUTE) == "True" and self.runs[0].summary.tune == "lora"

    def mean(self, name: str) -> float | None:
        """Mean over seeds of a field of the summary; None where a run has none."""
        values = [getattr(run.summary, name) for run in self.runs]
        return None if None in values else fmean(values)

    def same(self, name: str) -> Any:
        """A field of the summary that is the same for all seeds; None where it is not."""
        values = {getattr(run.summary, name) for run in self.runs}
        return values.pop() if len(values) == 1 else None

    def peak(self, name: str) -> int | None:
        """Most bytes over seeds, of the accelerator where it has memory of its own; None where nothing was measured.

        Args:
            name: "step_peak_bytes" or "forward_peak_bytes".
        """
        peaks = [getattr(run.summary, name) for run in self.runs]
        return max(peak.device or peak.host for peak in peaks) if all(peaks) else None

    def curves(self, axis: str) -> list[list[tuple[float, float]]]:
        """Dev scores over "passes" or "seconds", of each run that has some."""
        return [points for run in self.runs if len(points := curve(run.metrics, axis)) > 1]


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
        settings: of the whole comparison, as study.toml has them; empty where they are not on record.
        ended: day on which the last run ended, as YYYY-MM-DD.
    """

    methods: tuple[Method, ...]
    failed: list[dict[str, Any]] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)
    unfinished: int = 0
    chosen: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    ended: str = ""

    @classmethod
    def of(cls, runs: Iterable[ReportedRun], **others: Any) -> Study:
        """A comparison of runs, and the other attributes of this class."""
        return cls(tuple(Method(group) for group in groups(runs)), **others)

    @classmethod
    def in_folder(cls, path: Path) -> Study:
        """The runs in the folder of a comparison, or one run directory.

        Raises:
            ZoplatError: it is neither, or a run that was named is not finished.
        """
        record = _record(path / COMPARISON)
        runs = [ReportedRun.read(run, name) for run, name in _named(path, record).items()]
        newest = max(RunDirectory(Path(run.place)).summary.stat().st_mtime for run in runs)
        return cls.of(
            runs,
            failed=record.get("failed") or [],
            violations=record.get("violations") or [],
            unfinished=_unfinished(path),
            chosen=record.get("chosen") or [],
            command=_command(path, record),
            settings=read_toml(path / STUDY) if (path / STUDY).exists() else {},
            ended=f"{datetime.fromtimestamp(newest):%Y-%m-%d}",
        )

    @classmethod
    def joined(cls, studies: Sequence[Study]) -> Study:
        """Several comparisons as one; of the command and the settings, the first that is on record."""
        return cls.of(
            [run for study in studies for method in study.methods for run in method.runs],
            failed=[run for study in studies for run in study.failed],
            violations=[run for study in studies for run in study.violations],
            unfinished=sum(study.unfinished for study in studies),
            chosen=[cell for study in studies for cell in study.chosen],
            command=next((study.command for study in studies if study.command), ""),
            settings=next((study.settings for study in studies if study.settings), {}),
            ended=max(study.ended for study in studies),
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
        runs = [run for method in self.methods for run in method.runs]
        models = dict.fromkeys(str(run.summary.model) for run in runs)
        count = f"{len(self.labels)} method{'' if len(self.labels) == 1 else 's'} on {_listed(self.tasks)}"
        return f"{count} · {_listed(models)} · {len(runs)} runs · {self.ended}"


def _named(path: Path, record: Mapping[str, Any]) -> dict[Path, str]:
    """The runs of a folder that count, with their names in the table; empty for that of the estimator."""
    if record.get("runs"):
        return {path / run["directory"]: str(run.get("label") or "") for run in record["runs"]}
    return dict.fromkeys(runs_in(path), "")


def _command(path: Path, record: Mapping[str, Any]) -> str:
    """What makes a comparison again; empty where that is not on record."""
    if (path / STUDY).exists():
        config, out = (shlex.quote(str(place)) for place in (path / STUDY, f"{path}-again"))
        plugins = read_toml(path / STUDY).get("study", {}).get("plugins", {})
        return f"zoplat compare --config {config} --out {out}{shown(plugins)}"
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
