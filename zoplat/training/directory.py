"""The run directory: plain text that outlives the program, and the checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoplat.config.layers import changed_settings, read_toml
from zoplat.config.parts import Table
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.paths import replace_text
from zoplat.training.states import state_from_json, state_to_json


class RunDirectory:
    """Files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.journal = path / "config.toml", path / "journal.jsonl"
        self.metrics, self.memory = path / "metrics.jsonl", path / "memory.jsonl"
        self.environment, self.summary = path / "environment.json", path / "summary.json"
        self.checkpoint = path / "checkpoint"

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """The run at `path`; raises ZoplatError when there is none."""
        directory = cls(path)
        if not directory.config.exists():
            raise ZoplatError(f"{path} is not a run directory: it has no config.toml. `zoplat list runs` shows runs.")
        return directory

    def begin(self, config: RunConfig, environment: dict[str, Any]) -> None:
        """Make the folder with its settings and environment."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            replace_text(self.environment, json.dumps(environment, indent=1, ensure_ascii=False) + "\n")
            replace_text(self.config, config.toml())
        except OSError as problem:
            raise ZoplatError(f"--out {self.path}: {problem.strerror}. Choose another place.") from None

    def check_unchanged(self, config: RunConfig) -> None:
        """Raise ZoplatError when the run there was begun with other settings."""
        lines = changed_settings(read_toml(self.config), config.table())
        if lines:
            raise ZoplatError(
                f"--resume: {self.path} was begun with other settings:\n  "
                + "\n  ".join(lines)
                + "\nResume with the same ones, or choose another --out."
            )

    def read_summary(self) -> dict[str, Any]:
        """summary.json, or an empty dict before the run has one."""
        return dict(json.loads(self.summary.read_text())) if self.summary.exists() else {}

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace summary.json."""
        replace_text(self.summary, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append one evaluation."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Evaluations so far."""
        return read_lines(self.metrics) if self.metrics.exists() else []

    def trim_metrics(self, steps: int) -> None:
        """Cut off the torn last line that a killed process leaves, and what is ahead of the journal."""
        kept = [record for record in self.read_metrics() if record["step"] <= steps]
        replace_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def write_memory(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace memory.jsonl."""
        replace_text(self.memory, "".join(json.dumps(row) + "\n" for row in rows))

    def save(self, session: Session, progress: dict[str, Any], states: dict[str, Any]) -> None:
        """Write a checkpoint beside the newest one, then make it the newest. θ must be settled."""
        folder = self.checkpoint / f"step-{progress['step']}"
        if self._newest() == folder:  # a resumed run comes to the same weights
            return
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        arrays = {**_buffers(session), **session.arrays()}
        session.write(folder / "weights.safetensors", arrays)
        packed = {name: state_to_json(state, session.space) for name, state in states.items()}
        replace_text(folder / "state.json", json.dumps({**progress, "states": packed}))
        replace_text(self.checkpoint / "newest", folder.name)
        for old in self.checkpoint.glob("step-*"):
            if old.name != folder.name:
                shutil.rmtree(old)

    def load(self, session: Session, states: dict[str, Any], steps: int) -> dict[str, Any] | None:
        """Read the newest checkpoint into θ and the states; None when there is none.

        One that is ahead of the `steps` of the journal is dropped: the steps in between are not on record.
        """
        folder = self._newest()
        if folder is None:
            return None
        saved = json.loads((folder / "state.json").read_text())
        if saved["step"] > steps:
            (self.checkpoint / "newest").unlink()
            return None
        session.read(folder / "weights.safetensors", {**_buffers(session), **session.arrays()})
        session.space.reset()
        for name, state in states.items():
            state_from_json(state, saved["states"][name], session.space)
        if session.digest() != saved["weights_digest"]:
            raise ZoplatError(f"{folder} is damaged: its weights do not have the digest that was written down.")
        return {name: value for name, value in saved.items() if name != "states"}

    def _newest(self) -> Path | None:
        """The folder of the newest checkpoint."""
        mark = self.checkpoint / "newest"
        return self.checkpoint / mark.read_text().strip() if mark.exists() else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, up to the last whole line."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def fresh(base: Path) -> Path:
    """`base`, or the first of base-2, base-3, … that is not taken."""
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def find_runs(folder: Path) -> list[tuple[RunDirectory, Table]]:
    """Runs below a folder with their summaries, oldest first."""
    found = [RunDirectory(path.parent) for path in folder.glob("*/config.toml")]
    return [(run, run.read_summary()) for run in sorted(found, key=lambda run: run.config.stat().st_mtime)]


def _buffers(session: Session) -> dict[str, Any]:
    return {
        f"buffer/{index}/{name}": array
        for index, buffer in enumerate(session.space.buffers)
        for name, array in buffer.arrays.items()
    }
