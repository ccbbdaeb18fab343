"""Rows that ship with a task: a file beside the module that registers it, in zoplat or in anyone's package."""

from __future__ import annotations

import gzip
from pathlib import Path

from zoplat.core.errors import ZoplatError
from zoplat.registry import catalogue
from zoplat.tasks import files
from zoplat.tasks.task import SPLITS, Task


def rows(task: Task, name: str) -> dict[str, files.Rows]:
    """The rows of the file that `task.packaged` names, by the column "split"; of train where they have none.

    Raises:
        ZoplatError: there is no such file, it can't be read, or a row has a split of another name.
    """
    home = _home(task, name)
    places = [folder / str(task.packaged) for folder in (home / "data", home)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ZoplatError(
            f"Task '{name}' ships its rows in {task.packaged}, and neither {places[0]} nor {places[1]} is there. Put "
            "the file there and into the wheel, or give --data."
        )
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, ValueError) as problem:
        raise ZoplatError(f"{path} can't be read as JSON lines in UTF-8: {problem}.") from None
    found: dict[str, files.Rows] = {}
    for where, row in files.parsed(text, str(task.packaged)):
        split = row.get("split", "train")
        if split not in SPLITS:
            raise ZoplatError(f"{where}: the split of a row is one of {', '.join(SPLITS)}, found {split!r}.")
        found.setdefault(split, []).append((where, row))
    return found


def _home(task: Task, name: str) -> Path:
    """The folder of the module that registers a task; that of zoplat's own tasks where none does."""
    entries = [*catalogue().entries.get(("task", name), []), *(entry for entry in catalogue() if entry.kind == "task")]
    homes = [entry.home for entry in entries if entry.value == task or entry.name == name]
    return next((home for home in homes if home), Path(__file__).parent)
