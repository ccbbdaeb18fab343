"""Rows from a folder with the files of each split: JSON lines, CSV or parquet."""

from __future__ import annotations

import ast
import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import Any

from zoplat.core.errors import ZoplatError

NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
PART = r"[-_.]?(?P<number>\d+)(?:-of-(?P<count>\d+))?"
"""What follows the name of a split in the name of one of its several files: train-00001-of-00004, train_2, train3."""
WITHOUT_ROWS = (".md", ".toml", ".py")
"""Endings of files in a data folder that nobody takes for rows."""
Rows = list[tuple[str, dict[str, Any]]]
"""For each row, its file and line (for errors), and its columns."""


def check_folder(folder: Path) -> None:
    """Raise ZoplatError for a data folder that is none."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ZoplatError(f"--data: {folder} {what}; give the folder that holds train, dev and test.jsonl.")


def read(folder: Path, split: str, texts: Sequence[str]) -> Rows | None:
    """Rows of one split; None where dev or test has no file.

    Args:
        folder: where the files are.
        split: "train", "dev" or "test"; dev may be called validation, valid or val.
        texts: columns that are text, even where a cell looks like JSON.

    Raises:
        ZoplatError: no file for train, files of two kinds or names for one split, one of several that is missing, or
            one that can't be read; names file and line.
    """
    check_folder(folder)
    paths = _paths(folder, split)
    if paths:
        return [row for path in paths for row in READERS[path.suffix](path, texts)]
    if split == "train":
        others = unused(folder)
        raise ZoplatError(
            f"--data: {folder} has no train.jsonl, train.csv or train.parquet"
            f"{f' (it has {_listed(others)})' if others else ''}. A data folder holds that, and the same "
            "for dev and test unless these are to be cut from it."
        )
    return None


def unused(folder: Path) -> list[str]:
    """Names of the files in a data folder that are read for no split."""
    used = {path for split in NAMES for path in _paths(folder, split)}
    return [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path not in used
        and not path.name.startswith((".", "LICENSE"))
        and path.suffix not in WITHOUT_ROWS
    ]


def unused_notice(folder: Path) -> str:
    """A sentence about the files that are not read; empty where all are."""
    names = unused(folder)
    return f"not read in {folder}: {_listed(names)}; files of rows are {_known()}." if names else ""


def _known() -> str:
    names = [name for known in NAMES.values() for name in known]
    return f"{', '.join(names)} as {', '.join(READERS)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _paths(folder: Path, split: str) -> list[Path]:
    """The files of a split: one, or its numbered parts in their order.

    Raises:
        ZoplatError: there are files of two names or kinds, or not all parts.
    """
    whole = [path for name in NAMES[split] for end in READERS if (path := folder / f"{name}{end}").is_file()]
    pattern = f"(?P<name>{'|'.join(NAMES[split])}){PART}"
    found = {path: re.fullmatch(pattern, path.stem) for path in folder.iterdir() if path.suffix in READERS}
    parts = {path: match for path, match in found.items() if match and path.is_file()}
    kinds = {(match["name"], path.suffix) for path, match in parts.items()}
    if len(whole) > 1 or len(kinds) > 1 or (whole and parts):
        listed = " and ".join(path.name for path in [*whole, *sorted(parts)][:3])
        raise ZoplatError(f"--data: {folder} holds {listed} for {split}; leave one of them there.")
    counts = {int(match["count"]) for match in parts.values() if match["count"]}
    if counts and counts != {len(parts)}:
        raise ZoplatError(
            f"--data: {folder} holds {len(parts)} of the {max(counts)} files of {split} that their names count "
            f"({_listed(sorted(path.name for path in parts))}). Copy the others there too."
        )
    return whole or sorted(parts, key=lambda path: int(parts[path]["number"]))


def parsed(text: str, path: str) -> Rows:
    """Rows of JSON lines; raises ZoplatError with the line of what is no JSON object."""
    rows: Rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() also splits inside sentences
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as problem:
            raise ZoplatError(
                f"{where}: not JSON ({problem.msg.removesuffix(' at')} at column {problem.colno})."
            ) from None
        except RecursionError:
            raise ZoplatError(f"{where}: not a row (nested too deeply).") from None
        except ValueError as problem:  # a key that stands twice, a number of thousands of digits
            raise ZoplatError(f"{where}: not a row ({str(problem).partition(';')[0]}).") from None
        if not isinstance(row, dict):
            raise ZoplatError(f"{where}: expected an object with columns, found {type(row).__name__}.")
        rows.append((where, _whole(row) if "\\u" in line else row))
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError where a key stands in it twice, since only one of the values could count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands there more than once")
    return found


def _whole(value: Any) -> Any:
    """A value of JSON whose texts have U+FFFD in place of halves of surrogate pairs, which are no characters."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list) else value


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as problem:
        raise ZoplatError(f"--data: {path} can't be read: {problem.strerror}.") from None
    except UnicodeDecodeError as problem:
        content, at = problem.object, problem.start
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        line = content.count(b"\n", 0, at) + 1
        found = f"the byte 0x{content[at]:02x} in line {line}; it may be Latin-1"
        raise ZoplatError(
            f"--data: {path} is not UTF-8 text, but has {'the mark of UTF-16' if is_wide else found}. Make it UTF-8: "
            f"iconv -f {'utf-16' if is_wide else 'latin1'} -t utf-8 {quote(str(path))} > utf8{path.suffix}"
        ) from None


def _lines(path: Path, texts: Sequence[str]) -> Rows:
    return parsed(_text(path), str(path))


def _csv(path: Path, texts: Sequence[str]) -> Rows:
    """Rows of a CSV file; a cell outside `texts` that is a list or an object is read as such (lists of answers).

    A column without a name, such as the index that pandas writes, is left out; so are lines of empty cells.
    """
    records = _csv_lines(path)
    where, head = next(records, (f"{path}, line 1", []))
    names = [name.strip() for name in head]
    named = [name for name in names if name]
    if not named or len(set(named)) < len(named):
        raise ZoplatError(
            f"{where}: the first line must name the columns, each once; found {', '.join(names) or 'none'}."
        )
    rows: Rows = []
    for where, cells in records:
        if not any(cells):
            continue
        if len(cells) != len(names):
            raise ZoplatError(
                f"{where}: {len(cells)} cells, but {len(names)} columns ({', '.join(names)}). Quote cells with commas."
            )
        pairs = zip(names, cells, strict=True)
        rows.append((where, {name: cell if name in texts else _value(cell) for name, cell in pairs if name}))
    return rows


def _csv_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line, cells) of every line that is not empty."""
    csv.field_size_limit(2**31 - 1)  # 131072 characters otherwise; a C long, which has 32 bits on some machines
    text = _text(path)
    head = text.partition("\n")[0]
    mark = next((mark for mark in ",;\t" if mark in head), ",")  # spreadsheets of many countries write semicolons
    reader = csv.reader(StringIO(text, newline=""), strict=True, delimiter=mark)
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
    """A cell as text, or as the list or object that it is, by JSON or as Python (and so pandas) writes it."""
    if cell[:1] not in ("[", "{"):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return cell


def _parquet(path: Path, texts: Sequence[str]) -> Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ZoplatError(
            f"--data: {path.name} is read by a package that is not installed: pip install pyarrow. "
            "Or give the rows as .jsonl or .csv."
        ) from None
    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (OSError, ArrowException) as problem:
        raise ZoplatError(f"--data: {path} can't be read as parquet: {problem}") from None
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]


READERS: dict[str, Callable[[Path, Sequence[str]], Rows]] = {".jsonl": _lines, ".csv": _csv, ".parquet": _parquet}
