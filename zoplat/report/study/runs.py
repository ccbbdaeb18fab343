"""A run of a comparison with all that a report shows of it, as its directory has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoplat.comparison.terms import FinishedRun, terms_of
from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.predicted import Predicted, read_predictions
from zoplat.training.summary import Summary

TRIALS = "trials"
"""Folder, inside that of a comparison, of the runs by which settings were searched; they are no results."""


@dataclass(frozen=True)
class ReportedRun(FinishedRun):
    """A run of a comparison, with what its files say.

    Attributes:
        place: its run directory.
        metrics: records of metrics.jsonl; none where the model was scored without training.
        phases: rows of memory.jsonl that are about phases.
        predictions: of the test rows, by step.
        environment: versions and facts; empty where they are not on record.
    """

    place: str = ""
    metrics: Sequence[dict[str, Any]] = ()
    phases: Sequence[dict[str, Any]] = ()
    predictions: Mapping[int, Predicted] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, method: str = "") -> ReportedRun:
        """The run in a directory.

        Args:
            path: of the directory.
            method: its name in the table; that of the estimator when empty.

        Raises:
            ZoplatError: there is no run, or it is not finished.
        """
        directory, summary = RunDirectory.existing(path), _finished(path)
        kept = directory.environment
        return cls(
            summary,
            terms_of(directory),
            method,
            str(path),
            directory.read_metrics(),
            [row for row in directory.read_memory() if row["kind"] == "phase"],
            read_predictions(directory.predictions),
            json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {},
        )


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
            f"{path} is neither a run directory nor a folder with finished runs, nor the file of a study. `zoplat "
            "list runs` shows runs, and `zoplat compare` makes several."
        )
    return runs


def _finished(path: Path) -> Summary:
    summary = RunDirectory.existing(path).read_summary()
    if summary is None or summary.status != "done" or summary.test_after is None:
        raise ZoplatError(f"{path} is not finished; `zoplat run --resume --out {path}` goes on with it.")
    return summary
