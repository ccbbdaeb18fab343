"""Tasks: data, prompt, options and metric. One file per task."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from zoplat.device import Example
from zoplat.errors import ZoplatError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Task:
    """A classification by options: the model reads a prompt and prefers one continuation.

    Attributes:
        summary: one line for listings.
        prompt: row → what the model reads, without a trailing blank.
        words: label as the data spells it → its continuation, leading blank included.
        fields: columns the prompt needs; `label` is read beside them.
        packaged: name of the data file that ships inside the distribution, if one does.
        source: where the data come from, with their licence.
    """

    summary: str
    prompt: Callable[[Mapping[str, Any]], str]
    words: Mapping[Any, str]
    fields: tuple[str, ...]
    packaged: str | None = None
    source: str = ""
    metric: str = "accuracy"

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """One row as text; `where` names its file and line in errors."""
        for name in (*self.fields, "label"):
            if name not in row:
                raise ZoplatError(f"{where}: no column '{name}'; found {', '.join(row) or 'nothing'}.")
        for name in self.fields:
            if not isinstance(row[name], str):
                raise ZoplatError(f"{where}: '{name}' must be text, found {row[name]!r}.")
        label, known = row["label"], list(self.words)
        if isinstance(label, bool) or label not in known:
            names = ", ".join(repr(name) for name in known)
            raise ZoplatError(f"{where}: label {label!r} is not one of the task's: {names}.")
        return Example(self.prompt(row), tuple(self.words.values()), known.index(label))

    def score(self, predictions: Sequence[int], examples: Sequence[Example]) -> float:
        """Share of examples whose right option was preferred, in [0, 1]."""
        right = sum(guess == example.label for guess, example in zip(predictions, examples, strict=True))
        return right / len(examples)


def load(task: Task, name: str, data: Path | None, limit: int | None = None) -> dict[str, list[Example]]:
    """The three splits of a task, at most `limit` rows each.

    Raises:
        ZoplatError: no data, a malformed line (file and line are named), or an empty split.
    """
    if data is None and task.packaged is None:
        raise ZoplatError(
            f"Task '{name}' has no packaged data: give --data DIR, a folder with train.jsonl, dev.jsonl "
            f"and test.jsonl whose columns are {', '.join((*task.fields, 'label'))}."
        )
    splits = _packaged(task) if data is None else {split: _lines(data / f"{split}.jsonl") for split in SPLITS}
    examples = {}
    for split, rows in splits.items():
        chosen = rows[:limit] if limit else rows
        if not chosen:
            raise ZoplatError(f"The {split} split of task '{name}' is empty ({data or 'packaged data'}).")
        examples[split] = [task.example(row, where) for where, row in chosen]
    return examples


Rows = list[tuple[str, dict[str, Any]]]


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
