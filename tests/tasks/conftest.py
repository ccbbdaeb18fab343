"""Tasks by name, and folders of rows."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    """Writes a data folder: rows by split, as JSON lines, CSV or parquet."""

    def write(name: str = "rows", kind: str = "jsonl", **splits: Sequence[dict[str, Any]]) -> Path:
        place = tmp_path / name
        place.mkdir()
        for split, rows in splits.items():
            WRITERS[kind](place / f"{split}.{kind}", list(rows))
        return place

    return write


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(json.dumps(value) if isinstance(value, list | dict) else value for value in row.values())


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
