"""The rows of a task: its three splits, from the distribution, a folder or the hub."""

from __future__ import annotations

import gzip
import json
from importlib import resources
from pathlib import Path
from typing import Any

from zoplat.errors import ZoplatError
from zoplat.plugins import catalogue
from zoplat.tasks import SPLITS, Task

Rows = list[tuple[str, dict[str, Any]]]
"""Where each row was found, and its columns."""


def find(name: str) -> Task:
    """The task of a name."""
    task: Task = catalogue().entry("task", name).value
    return task


def load(task: Task, name: str, data: Path | None, limit: int | None = None) -> dict[str, Rows]:
    """The three splits of a task, at most `limit` rows each.

    Raises:
        ZoplatError: no data, a malformed line (file and line are named), or an empty split.
    """
    if data is None and task.packaged is None:
        raise ZoplatError(
            f"Task '{name}' has no packaged data: give --data DIR, a folder with train.jsonl, dev.jsonl "
            f"and test.jsonl whose columns are {', '.join(task.fields)} and what the answer needs."
        )
    splits = _packaged(task) if data is None else {split: _lines(data / f"{split}.jsonl") for split in SPLITS}
    for split, rows in splits.items():
        if not rows:
            raise ZoplatError(f"The {split} split of task '{name}' is empty ({data or 'packaged data'}).")
    return {split: rows[:limit] if limit else rows for split, rows in splits.items()}


def _lines(path: Path) -> Rows:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ZoplatError(f"--data: {path} does not exist; a data folder holds train, dev and test.jsonl.") from None
    except NotADirectoryError:
        raise ZoplatError(
            f"--data: {path.parent} is a file; give the folder that holds train, dev and test.jsonl."
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ZoplatError(f"--data: {path} can't be read as UTF-8 text: {problem}.") from None
    return _parsed(text, str(path))


def _packaged(task: Task) -> dict[str, Rows]:
    raw = resources.files("zoplat.tasks").joinpath(f"data/{task.packaged}").read_bytes()
    rows = _parsed(gzip.decompress(raw).decode(), str(task.packaged))
    return {split: [(where, row) for where, row in rows if row["split"] == split] for split in SPLITS}


def _parsed(text: str, path: str) -> Rows:
    rows: Rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() also splits inside sentences
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise ZoplatError(f"{where}: not JSON ({problem.msg} at column {problem.colno}).") from None
        if not isinstance(row, dict):
            raise ZoplatError(f"{where}: expected an object with columns, found {type(row).__name__}.")
        rows.append((where, row))
    return rows
