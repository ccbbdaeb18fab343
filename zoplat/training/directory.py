"""The run directory: settings, journal, scores and summary as text files, and checkpoints."""

from __future__ import annotations

import errno
import json
import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from zoplat.config.layers import build, changed_settings, read_toml, without_free
from zoplat.config.local import check_sources
from zoplat.config.parts import Table, as_table
from zoplat.config.run_config import SECTIONS, RunConfig
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.notices import counted, notice
from zoplat.core.plain_json import to_text, with_numbers
from zoplat.paths import replace_text
from zoplat.registry import LOCAL, catalogue
from zoplat.training.checkpoint import Checkpoints
from zoplat.training.journal import Journal
from zoplat.training.summary import LARGEST, Summary

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
"""Errors of a disk, whichever file was written."""


BUDGET = ("steps:", "max_passes:", "max_seconds:", "max_tokens:", "max_joules:")
"""Settings that a run may be resumed with other values of."""


class RunDirectory:
    """The files of one run.

    Attributes:
        config: config.toml, the resolved settings.
        journal: journal.jsonl, the answers of every step.
        metrics: metrics.jsonl, one line per evaluation of a split.
        logged: logged.jsonl, the numbers that callbacks have logged; no file where none has.
        trace: trace.jsonl, the slopes and moves of the steps; see `trace.TraceRecord`.
        predictions: predictions.jsonl, what was predicted for each test row before and after training.
        memory: memory.jsonl, seconds and peaks by phase, bytes by owner.
        environment: environment.json, versions and facts about the model and the device.
        summary: summary.json, written when the run is finished.
        general: general.f32, what the starting model predicts in general text; there while a run measures it.
        checkpoints: θ and the states at the newest evaluation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.journal = path / "config.toml", path / "journal.jsonl"
        self.metrics, self.memory = path / "metrics.jsonl", path / "memory.jsonl"
        self.trace, self.logged = path / "trace.jsonl", path / "logged.jsonl"
        self.predictions = path / "predictions.jsonl"
        self.environment, self.summary = path / "environment.json", path / "summary.json"
        self.general = path / "general.f32"
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
            replace_text(self.environment, json.dumps(environment, indent=1, ensure_ascii=False) + "\n", lasts=True)
            replace_text(self.config, config.toml(), lasts=True)
        except OSError as problem:
            raise ZoplatError(f"--out {self.path}: {problem.strerror}. Choose another place.") from None

    def failure(self, problem: OSError) -> RunFailed | None:
        """What to say where a file of the run can't be written; None where the problem is about something else."""
        names = [str(name) for name in (problem.filename, problem.filename2) if name is not None]
        if problem.errno not in FULL and not any(Path(name).is_relative_to(self.path) for name in names):
            return None
        what = names[0] if names else self.path
        if not self.journal.exists():
            return RunFailed(f"{what} can't be written: {problem.strerror}. The run directory was deleted or moved.")
        return RunFailed(
            f"{what} can't be written: {problem.strerror}. The journal has every step made so far: put that right "
            f"(free some room, for example) and go on with --resume --out {shlex.quote(str(self.path))}."
        )

    def check_unchanged(self, config: RunConfig, out: Path) -> None:
        """Raise ZoplatError when the run in this directory was begun with other settings; `out` is its comparison's."""
        lines = changed_settings(self.read_config().table(), config.table())
        if lines:
            raise ZoplatError(
                f"--out {out}: {self.path} was begun with other settings:\n  "
                + "\n  ".join(lines)
                + "\nRuns of both can't share a table. Give the same ones, or choose another --out."
            )

    def check_resumable(self, config: RunConfig) -> None:
        """Raise ZoplatError unless the run can go on with these settings: its own, or its own with another budget."""
        lines = without_free(changed_settings(self.read_config().table(), config.table()))
        if others := [line for line in lines if not line.startswith(BUDGET)]:
            raise ZoplatError(
                f"--resume: {self.path} was begun with other settings:\n  "
                + "\n  ".join(others)
                + "\nResume with the same ones, or choose another --out."
            )
        journal = self.read_journal()
        if journal is not None:
            check_sources(journal.header.get("plugins") or {}, str(self.path))
        if not lines or journal is None:
            return
        if config.estimator.has_horizon or config.estimator.rule.has_horizon:
            raise ZoplatError(
                f"--resume: {self.path} can't have another budget than the one it was begun with, since the step size "
                "of each step depends on it:\n  " + "\n  ".join(lines) + "\nBegin another run with that budget."
            )
        if config.steps and config.steps < len(journal.steps):
            raise ZoplatError(
                f"--resume --steps {config.steps}: {self.path} made {counted(len(journal.steps), 'step')} already."
            )

    def is_extended_by(self, config: RunConfig) -> bool:
        """Whether the settings give the run another budget than the one on record."""
        return bool(without_free(changed_settings(self.read_config().table(), config.table())))

    def is_changed_by(self, config: RunConfig) -> bool:
        """Whether the settings differ from those on record in anything."""
        return bool(changed_settings(self.read_config().table(), config.table()))

    def extend(self, config: RunConfig) -> None:
        """Record another budget, so that a run that was finished goes on."""
        self.summary.unlink(missing_ok=True)
        step = self.checkpoints.step()
        if step and "gradient" not in config.estimator.asks and step % (config.evaluate_every or 1):
            self.checkpoints.drop()  # weights at the old end; a run of this budget would not have been settled there
        replace_text(self.config, config.toml(), lasts=True)

    def read_config(self, **changes: Any) -> RunConfig:
        """The settings of the run, some of them replaced; those of an earlier version under the names of now."""
        settings = self.read_settings() | changes
        try:
            return build([settings])
        except ZoplatError:
            self._check_plugins()
            raise

    def _check_plugins(self) -> None:
        """Raise ZoplatError where the run uses parts of a plugin, by the header of its journal, that is not there."""
        try:
            with self.journal.open("rb") as file:
                recorded: dict[str, str] = dict(json.loads(file.readline()).get("plugins") or {})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return  # no journal yet, or a damaged one, which is said where it is read
        known = {entry.distribution for entry in catalogue()}
        for name, version in recorded.items():
            if name not in known and not name.startswith(LOCAL):
                how = f"Give that file too: --plugin {shlex.quote(name)}" if name.endswith(".py") else "Install it."
                raise ZoplatError(f"{self.path} uses parts of {name} ({version}), which is not there. {how}")

    def read_settings(self) -> Table:
        """The table of config.toml; raises ZoplatError where something is missing that every run writes."""
        return recorded_settings(self.config)

    def read_journal(self) -> Journal | None:
        """The journal so far; None before its header is complete."""
        if not self.journal.exists() or b"\n" not in self.journal.read_bytes():
            return None
        return Journal.read(self.journal)

    def lost_steps(self, summary: Summary) -> str:
        """What to say where the journal lacks steps of a finished run; empty where it has them all."""
        journal, name = self.read_journal() if summary.steps else None, shlex.quote(str(self.path))
        if journal is None and summary.steps:
            return f"{self.journal} is gone, so the run can't be replayed. To make it again, give another --out."
        if journal is None or len(journal.steps) >= summary.steps:
            return ""
        return (
            f"{self.journal} ends after {counted(len(journal.steps), 'step')}; the run made {summary.steps}. "
            f"`zoplat repair {name}` and `zoplat run --resume --out {name}` make the others anew."
        )

    def read_summary(self) -> Summary | None:
        """The summary; None before the run is finished.

        Raises:
            ZoplatError: the file is damaged.
        """
        try:
            return Summary.from_json(with_numbers(json.loads(self.summary.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            name = shlex.quote(str(self.path))
            raise ZoplatError(
                f"{self.summary} is damaged; `zoplat run --resume --out {name}` writes it anew."
            ) from None

    def write_summary(self, table: Table) -> None:
        """Replace summary.json by a summary as plain values."""
        replace_text(self.summary, to_text(table, indent=1, ensure_ascii=False) + "\n", lasts=True)

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append one evaluation of a split."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(to_text(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The evaluations so far; damaged lines are left out."""
        return self._metrics()[0]

    def trim_metrics(self, steps: int) -> int:
        """Drop evaluations after `steps` steps, and the incomplete last line that a killed process may leave.

        Returns:
            Number of damaged lines that were dropped.
        """
        records, damaged = self._metrics()
        kept = [record for record in records if record["step"] <= steps]
        replace_text(self.metrics, "".join(to_text(record) + "\n" for record in kept))
        return damaged

    def _metrics(self) -> tuple[list[dict[str, Any]], int]:
        """The evaluations, and the number of damaged lines."""
        if not self.metrics.exists():
            return [], 0
        lines = [line for line in self.metrics.read_bytes().decode(errors="replace").split("\n")[:-1] if line]
        records = [record for line in lines if (record := _evaluation(line))]
        return records, len(lines) - len(records)

    def add_logged(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append numbers that a callback has logged after so many steps."""
        with self.logged.open("a", encoding="utf-8") as file:
            file.write(to_text({"step": step, **numbers}) + "\n")

    def read_logged(self) -> dict[int, dict[str, float]]:
        """Step → the numbers that callbacks have logged after it; damaged lines are left out."""
        found: dict[int, dict[str, float]] = {}
        if not self.logged.exists():
            return found
        for line in self.logged.read_bytes().decode(errors="replace").split("\n")[:-1]:
            record = _object(line)
            if type(record.get("step")) is int and _has_numbers(record, *record):
                found.setdefault(record.pop("step"), {}).update(record)
        return found

    def read_memory(self) -> list[dict[str, Any]]:
        """Seconds and peaks by phase, bytes by owner, and what probes have read; damaged lines are left out."""
        if not self.memory.exists():
            return []
        lines = self.memory.read_bytes().decode(errors="replace").split("\n")[:-1]
        return [record for line in lines if (record := _measured(line))]

    def write_memory(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace memory.jsonl."""
        replace_text(self.memory, "".join(to_text(row) + "\n" for row in rows))


def recorded_settings(path: Path) -> Table:
    """The table of a settings file that was written for a run; raises ZoplatError where something is missing in it."""
    table = read_toml(path)
    nameless = [f"[{name}] with a name" for name in SECTIONS if not as_table(table.get(name, {}), name).get("name")]
    missing = nameless + [name for name in ("task", "dtype") if not isinstance(table.get(name), str)]
    if missing:
        raise ZoplatError(
            f"{path} is damaged: it has no {missing[0]}. Without its settings the run can't be continued or replayed; "
            "where you know them, write them there again."
        )
    return table


def _evaluation(line: str) -> dict[str, Any] | None:
    """The record of an evaluation in a line; None where the line is damaged."""
    record = _object(line)
    is_whole = type(record.get("step")) is int and isinstance(record.get("split"), str) and "score" in record
    return record if is_whole and _has_numbers(record, "score", "rows", "passes") else None


def _measured(line: str) -> dict[str, Any] | None:
    """The record of a phase, an owner or a probe in a line of memory.jsonl; None where the line is damaged."""
    record = _object(line)
    kind = record.get("kind")
    numbers = {"phase": ("seconds", "calls", "host_peak"), "owner": ("bytes",), "probe": ("last", "readings")}.get(
        str(kind), ()
    )
    is_whole = numbers and isinstance(record.get(str(kind)), str) and None not in map(record.get, numbers)
    return record if is_whole and _has_numbers(record, *numbers, "device_peak") else None


def _object(line: str) -> dict[str, Any]:
    """The object in a line; an empty one where the line holds none."""
    try:
        record = json.loads(line)
        return with_numbers(record) if isinstance(record, dict) else {}
    except (ValueError, TypeError, RecursionError):
        return {}


def _has_numbers(record: dict[str, Any], *names: str) -> bool:
    """Whether what an object has under these names is None, or a number of a size that can be meant."""
    values = [record.get(name) for name in names]
    return all(
        value is None or type(value) is float or (type(value) is int and abs(value) < LARGEST) for value in values
    )


def resumed_settings(settings: Mapping[str, Any], out: Path | None, resume: bool) -> dict[str, Any]:
    """Settings as `config.layers.resolve` takes them, on top of those on record where a run is resumed.

    A settings file or a preset says everything by itself.

    Raises:
        ZoplatError: there is neither a run to be resumed nor any setting of a new one.
    """
    directory = RunDirectory(out) if resume and out else None
    if directory is None:
        return dict(settings)
    if not directory.config.exists():
        if all(value in (None, {}) for value in settings.values()):
            names = [run.path.name for run in find_runs(directory.path.parent)]
            close = get_close_matches(directory.path.name, names, n=1)
            guess = f" Did you mean {directory.path.parent / close[0]}?" if close else ""
            raise ZoplatError(
                f"--resume --out {out}: there is no run to go on with.{guess} `zoplat list runs` shows runs; without "
                "--resume a new one begins."
            )
        notice(f"{out} has no run to go on with, so a new one begins there")
        return dict(settings)
    if settings.get("config") or settings.get("preset"):
        return dict(settings)
    directory.read_config()  # which says it where they are damaged, or a plugin is missing
    return {**settings, "config": directory.config}


def find_runs(folder: Path) -> list[RunDirectory]:
    """The runs in a folder, oldest first."""
    found = {path: _modified(path) for path in folder.glob("*/config.toml")}
    return [RunDirectory(path.parent) for path in sorted(found, key=lambda path: (found[path], path))]


def _modified(path: Path) -> float:
    """When a file was written; 0 where it can't be seen, for example because it is just being deleted."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
