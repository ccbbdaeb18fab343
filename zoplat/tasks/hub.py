"""Rows from the hub of data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.tasks.files import Rows
from zoplat.tasks.task import CONVERTED, Fields, Hub, Task

SECONDS = 5
"""Until the hub counts as out of reach."""


def read(task: Task, hub: Hub, name: str, order: Callable[[Fields], float], most: int) -> dict[str, Rows]:
    """The first rows of each split that the hub has, with columns and classes named as the task names them.

    Args:
        task: what the rows are for.
        hub: where they are.
        name: of the task.
        order: number of a row that says where it stands.
        most: rows of each split at most.

    Rows without a label are left out.

    Raises:
        ZoplatError: the hub can't be reached, or has not what is asked for.
    """
    import datasets

    offline, there = datasets.config.HF_HUB_OFFLINE, Path(hub.path).is_dir() or _answers()
    try:
        datasets.config.HF_HUB_OFFLINE = offline or not there  # spares its retries; the cache is still looked into
        return {
            ours: nsmallest(
                most, _rows(task, hub, datasets.load_dataset(**_asked(hub, theirs))), lambda row: order(row[1])
            )
            for ours, theirs in hub.splits.items()
        }
    except ZoplatError:
        raise
    except Exception as problem:
        told = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
        told = told if there else "it does not answer"
        raise ZoplatError(f"Task '{name}': no rows from {hub.path} on the hub ({told}). Give {wanted(task)}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def wanted(task: Task) -> str:
    """What --data takes instead."""
    return (
        "--data DIR, a folder with train.jsonl, dev.jsonl and test.jsonl whose columns are "
        f"{', '.join(task.fields)} and what the answer needs."
    )


def _answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of whichever library carries the request
        return False
    return True


def _asked(hub: Hub, split: str) -> dict[str, Any]:
    asked = {"path": hub.path, "revision": hub.revision, "split": split}
    return asked | ({"data_dir": hub.name or "default"} if hub.revision == CONVERTED else {"name": hub.name})


def _rows(task: Task, hub: Hub, found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    classes = {column: kind.names for column, kind in found.features.items() if hasattr(kind, "names")}
    number = 0
    for batch in found.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            if not any(row[column] in (None, -1) for column in classes):
                row |= {column: names[row[column]] for column, names in classes.items()}
                ours = {hub.columns.get(column, column): value for column, value in row.items()}
                where = f"{hub.path}, {found.split} row {number}"
                task.check_text(ours, where)
                yield where, ours
            number += 1
