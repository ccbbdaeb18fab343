"""What the files of a finished run say: summary, settings, scores, losses, and memory by phase and owner."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.notices import notice
from zoplat.training.attribution import is_elsewhere, is_on_host
from zoplat.training.directory import RunDirectory
from zoplat.training.profiler import INFERENCE
from zoplat.training.summary import Summary

MEANING = {
    "open": "loading libraries and the model",
    "inference": "forward passes on the longest rows, before training: the memory yardstick",
    "baseline": "scoring both splits before training, pure inference",
    "forward": "forward passes of training",
    "gradient": "backpropagation, its forward pass included",
    "move": "perturbing weights, taking probes back, applying updates",
    "rule": "kernels of step rules that visit every weight",
    "yardstick": "bare forward passes, timed for the overhead ratio",
    "evaluate": "scoring the dev and test splits",
    "forgetting": "reading general text before and after training",
    "checkpoint": "writing checkpoints and digests",
    "other": "between phases: data, journal, bookkeeping",
}


@dataclass(frozen=True)
class Account:
    """The files of a finished run, read.

    Attributes:
        directory: of the run.
        summary: content of summary.json.
        environment: content of environment.json.
        settings: text of config.toml.
        metrics: evaluations, in order.
        memory: rows of memory.jsonl: phases with peaks, and owners with bytes.
        losses: (step, training loss) of the steps that have one.
    """

    directory: RunDirectory
    summary: Summary
    environment: dict[str, Any]
    settings: str
    metrics: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    losses: list[tuple[int, float]]

    @classmethod
    def read(cls, directory: RunDirectory) -> Account:
        """Read the run; raises ZoplatError where it is not finished or its journal is damaged."""
        summary = directory.read_summary()
        if not summary:
            raise ZoplatError(
                f"{directory.path} is not finished: it has no summary.json. "
                f"`zoplat run --resume --out {shlex.quote(str(directory.path))}` goes on to the end."
            )
        if lost := directory.lost_steps(summary):
            notice(lost)
        journal = directory.read_journal()
        return cls(
            directory,
            summary,
            json.loads(directory.environment.read_text(encoding="utf-8")),
            directory.config.read_text(encoding="utf-8"),
            directory.read_metrics(),
            directory.read_memory(),
            [(record.step, record.loss) for record in (journal.steps if journal else ()) if record.loss is not None],
        )

    @property
    def title(self) -> str:
        """Method, task, model, seed and the day on which the run ended."""
        s, day = self.summary, datetime.fromtimestamp(self.directory.summary.stat().st_mtime)
        return f"{s.estimator} on {s.task} · {s.model} · seed {s.seed} · {day:%Y-%m-%d}"

    @property
    def places(self) -> list[str]:
        """Where memory was measured: "device" first, if it has memory of its own, then "host"."""
        return ["device", "host"] if self.summary.peak_bytes.device else ["host"]

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The rows of phases in memory.jsonl, in the order of `MEANING`."""
        order = list(MEANING)
        rows = [row for row in self.memory if row["kind"] == "phase"]
        return sorted(rows, key=lambda row: order.index(row["phase"]) if row["phase"] in order else len(order))

    def inference(self, place: str) -> int:
        """Peak bytes over the phases that only infer."""
        return max(row[f"{place}_peak"] or 0 for row in self.phases if row["phase"] in INFERENCE)

    def training(self, place: str) -> tuple[str, int]:
        """(phase, bytes) of the highest peak outside of opening the model and of inference."""
        later = [row for row in self.phases if row["phase"] not in {"open", "forgetting", *INFERENCE}]
        row = max(later, key=lambda row: row[f"{place}_peak"] or 0)
        return row["phase"], row[f"{place}_peak"] or 0

    def owners(self, place: str) -> list[tuple[str, int]]:
        """(owner, bytes) of everything held in a place, zeros left out."""
        rows = [(row["owner"], row["bytes"]) for row in self.memory if row["kind"] == "owner" and row["bytes"]]
        if len(self.places) == 1:
            return rows
        return [row for row in rows if (is_on_host(row[0]) if place == "host" else not is_elsewhere(row[0]))]
