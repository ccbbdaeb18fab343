"""Rows from a folder with one file per split: JSON lines, CSV or parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError

NAMES = {"train": ("train",), "dev": ("dev", "validation", "val"), "test": ("test",)}
Rows = list[tuple[str, dict[str, Any]]]
"""For each row, its file and line (for errors), and its columns."""


def read(folder: Path, split: str, texts: Sequence[str]) -> Rows | None:
    """Rows of one split; None where dev or test has no file.

    Args:
        folder: where the files are.
        split: "train", "dev" or "test"; dev may be called validation or val.
        texts: columns that are text, even where a cell looks like JSON.

    Raises:
        ZoplatError: no file for train, several for one split, or one that can't be read; names file and line.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ZoplatError(f"--data: {folder} {what}; give the folder that holds train, dev and test.jsonl.")
    paths = [path for name in NAMES[split] for end in READERS if (path := folder / f"{name}{end}").exists()]
    if len(paths) > 1:
        listed = " and ".join(path.name for path in paths)
        raise ZoplatError(f"--data: {folder} holds {listed} for {split}; leave one of them there.")
    if paths:
        return READERS[paths[0].suffix](paths[0], texts)
    if split == "train":
        raise ZoplatError(
            f"--data: {folder} has no train.jsonl, train.csv or train.parquet. A data folder holds that, and the same "
            "for dev and test unless these are to be cut from it."
        )
    return None


def parsed(text: str, path: str) -> Rows:
    """Rows of JSON lines; raises ZoplatError with the line of what is no JSON object."""
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


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as problem:
        raise ZoplatError(f"--data: {path} can't be read as UTF-8 text: {problem}.") from None


def _lines(path: Path, texts: Sequence[str]) -> Rows:
    return parsed(_text(path), str(path))


def _csv(path: Path, texts: Sequence[str]) -> Rows:
    """Rows of a CSV file; a cell outside `texts` that is a JSON list or object is read as such (lists of answers)."""
    records = _csv_lines(path)
    where, head = next(records, (f"{path}, line 1", []))
    if not head or len(set(head)) < len(head) or not all(head):
        raise ZoplatError(
            f"{where}: the first line must name the columns, each once; found {', '.join(head) or 'none'}."
        )
    rows: Rows = []
    for where, cells in records:
        if len(cells) != len(head):
            raise ZoplatError(f"{where}: {len(cells)} cells, but {len(head)} columns ({', '.join(head)}).")
        row = {name: cell if name in texts else _value(cell) for name, cell in zip(head, cells, strict=True)}
        rows.append((where, row))
    return rows


def _csv_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line, cells) of every line that is not empty."""
    reader = csv.reader(StringIO(_text(path), newline=""), strict=True)
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as problem:
            raise ZoplatError(f"{where}: not CSV ({problem}).") from None
        if cells is None:
            return
        if cells:
            yield where, cells


def _value(cell: str) -> Any:
    """A cell as text, or as the JSON list or object that it is."""
    try:
        return json.loads(cell) if cell[:1] in ("[", "{") else cell
    except json.JSONDecodeError:
        return cell


def _parquet(path: Path, texts: Sequence[str]) -> Rows:
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (OSError, ArrowException) as problem:
        raise ZoplatError(f"--data: {path} can't be read as parquet: {problem}") from None
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]


READERS: dict[str, Callable[[Path, Sequence[str]], Rows]] = {".jsonl": _lines, ".csv": _csv, ".parquet": _parquet}
