"""The run directory: settings, journal, scores and summary as text files, and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoplat.config.layers import build, changed_settings, read_toml
from zoplat.config.parts import Table
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.core.plain_json import to_text, with_numbers
from zoplat.paths import replace_text
from zoplat.training.checkpoint import Checkpoints
from zoplat.training.journal import Journal
from zoplat.training.summary import Summary


class RunDirectory:
    """The files of one run.

    Attributes:
        config: config.toml, the resolved settings.
        journal: journal.jsonl, the answers of every step.
        metrics: metrics.jsonl, one line per evaluation of a split.
        memory: memory.jsonl, seconds and peaks by phase, bytes by owner.
        environment: environment.json, versions and facts about the model and the device.
        summary: summary.json, written when the run is finished.
        checkpoints: θ and the states at the newest evaluation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.journal = path / "config.toml", path / "journal.jsonl"
        self.metrics, self.memory = path / "metrics.jsonl", path / "memory.jsonl"
        self.environment, self.summary = path / "environment.json", path / "summary.json"
        self.checkpoints = Checkpoints(path / "checkpoint")

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """The run at `path`; raises ZoplatError when there is none."""
        directory = cls(path)
        if not directory.config.exists():
            raise ZoplatError(f"{path} is not a run directory: it has no config.toml. `zoplat list runs` shows runs.")
        return directory

    def begin(self, config: RunConfig, environment: dict[str, Any]) -> None:
        """Make the folder with its settings and environment; raises ZoplatError where it can't be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            replace_text(self.environment, json.dumps(environment, indent=1, ensure_ascii=False) + "\n")
            replace_text(self.config, config.toml())
        except OSError as problem:
            raise ZoplatError(f"--out {self.path}: {problem.strerror}. Choose another place.") from None

    def check_unchanged(self, config: RunConfig) -> None:
        """Raise ZoplatError when the run in this directory was begun with other settings."""
        lines = changed_settings(self.read_config().table(), config.table())
        if lines:
            raise ZoplatError(
                f"--resume: {self.path} was begun with other settings:\n  "
                + "\n  ".join(lines)
                + "\nResume with the same ones, or choose another --out."
            )

    def read_config(self) -> RunConfig:
        """The settings of the run; those of an earlier version under the names of now."""
        return build([read_toml(self.config)])

    def read_journal(self) -> Journal | None:
        """The journal so far; None before its header is complete."""
        if not self.journal.exists() or b"\n" not in self.journal.read_bytes():
            return None
        return Journal.read(self.journal)

    def read_summary(self) -> Summary | None:
        """The summary; None before the run is finished."""
        return Summary.from_json(with_numbers(json.loads(self.summary.read_text()))) if self.summary.exists() else None

    def write_summary(self, table: Table) -> None:
        """Replace summary.json by a summary as plain values."""
        replace_text(self.summary, to_text(table, indent=1, ensure_ascii=False) + "\n")

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append one evaluation of a split."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(to_text(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The evaluations so far."""
        return read_lines(self.metrics) if self.metrics.exists() else []

    def trim_metrics(self, steps: int) -> None:
        """Drop evaluations after `steps` steps, and the incomplete last line that a killed process may leave."""
        kept = [record for record in self.read_metrics() if record["step"] <= steps]
        replace_text(self.metrics, "".join(to_text(record) + "\n" for record in kept))

    def write_memory(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace memory.jsonl."""
        replace_text(self.memory, "".join(to_text(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, up to the last complete line."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [with_numbers(json.loads(line)) for line in lines if line]


def unused(base: Path) -> Path:
    """`base`, or the first of base-2, base-3, … that does not exist."""
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def find_runs(folder: Path) -> list[RunDirectory]:
    """The runs in a folder, oldest first."""
    found = [RunDirectory(path.parent) for path in folder.glob("*/config.toml")]
    return sorted(found, key=lambda run: run.config.stat().st_mtime)
