"""The evaluations of a run: scores of its dev and test split at θ, written to metrics.jsonl and predictions.jsonl."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.evaluation.predictions import predictions, score_of, unanswered_note
from zoplat.tasks import data
from zoplat.tasks.metrics import METRICS, metric_of
from zoplat.training.baseline import KeptScore
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.opening import OpenedRun
from zoplat.training.predicted import add_predictions
from zoplat.training.progress import Progress

RECENT = 20
"""Newest losses whose mean is written down with a score."""


class Evaluations:
    """Scores the splits of a run, each at most once at the same step.

    Args:
        run: its model and rows.
        directory: where scores are written.
        callback: is notified of each score.
        losses: of the steps so far; the caller extends the list.
    """

    def __init__(self, run: OpenedRun, directory: RunDirectory, callback: Callback, losses: list[float]) -> None:
        self.run, self.directory, self.callback, self.losses = run, directory, callback, losses
        self.task = data.find(run.config.task)
        self.metric = metric_of(self.task)
        self.unanswered = 0
        self.predicted: Sequence[str | None] = ()

    def baseline(self, split: str, progress: Progress, strategy: str) -> float:
        """The score before training: of this run, or kept from one that began with the same model and rows."""
        if (score := self._written(split, 0)) is not None:
            return score
        identity = self.run.session.facts.get("model_identity")
        if self.task.metric not in METRICS:  # what a program computes may change without its name
            identity = None
        facts = [identity, self.run.identity(strategy), self.run.config.table()["tune"], self.task.metric]
        kept = KeptScore(facts, self.run.rows[split])
        if identity and (before := kept.read()):
            self._keep_predictions(split, 0, before[1])
            return self._record(split, replace(progress, step=0, seconds=0.0), before[0], 0.0, kept=True)
        if progress.step:
            raise ZoplatError(f"{self.directory.metrics} has lost its first scores; start the run afresh.")
        score = self.score(split, progress, "baseline")
        if identity and not self.unanswered:
            kept.write(score, self.predicted)
        return score

    def score(self, split: str, progress: Progress, phase: str = "evaluate") -> float:
        """The score of a split at θ, which is settled first.

        Args:
            split: "dev" or "test".
            progress: of the run.
            phase: of the profiler.
        """
        if (score := self._written(split, progress.step)) is not None:
            return score
        rows, session = self.run.rows[split], self.run.session
        began = time.perf_counter()
        session.space.settle()
        with self.run.profiler.phase(phase):
            predicted = predictions(session, rows, self.run.config.scored_at_once)
        score, unanswered = score_of(self.metric, predicted, [row.example for row in rows])
        self.unanswered += unanswered
        if unanswered:
            self.callback.warned(f"{split}: {unanswered_note(unanswered, len(rows))}")
        self.predicted = predicted
        self._keep_predictions(split, progress.step, predicted)
        return self._record(split, progress, score, time.perf_counter() - began, unanswered=unanswered)

    def _written(self, split: str, step: int) -> float | None:
        """The score of a split after so many steps, if metrics.jsonl has it."""
        for record in self.directory.read_metrics():
            if (record["step"], record["split"]) == (step, split):
                return float(record["score"])
        return None

    def _keep_predictions(self, split: str, step: int, predicted: Sequence[str | None]) -> None:
        """Write down what was predicted for the test rows; of the dev split the score is enough."""
        if split == "test":
            add_predictions(self.directory.predictions, step, predicted, [row.example for row in self.run.rows[split]])

    def _record(
        self, split: str, progress: Progress, score: float, seconds: float, kept: bool = False, unanswered: int = 0
    ) -> float:
        record: dict[str, Any] = {"step": progress.step, "passes": progress.passes, "split": split}
        record |= {"metric": self.task.metric, "score": score, "rows": len(self.run.rows[split])}
        record |= {"seconds": round(seconds, 3), "seconds_training": round(progress.seconds, 3), "kept": kept}
        record |= {"unanswered": unanswered} if unanswered else {}
        if progress.step:
            space = self.run.session.space
            record |= {"changed": round(space.changed, 6), "drift": space.drift}
        if self.losses:
            recent = self.losses[-RECENT:]
            record["loss"] = sum(recent) / len(recent)
        self.directory.add_metrics(record)
        self.callback.evaluated(record)
        return score
