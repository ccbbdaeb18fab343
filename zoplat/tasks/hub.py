"""Rows from the Hugging Face hub of data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.tasks.files import Rows
from zoplat.tasks.task import CONVERTED, Fields, Hub, Task

SECONDS = 5
"""Timeout after which the hub counts as unreachable."""


def read(task: Task, hub: Hub, name: str, order: Callable[[Fields], float], most: int) -> dict[str, Rows]:
    """The first rows of each split by `order`, with columns and classes named as the task names them.

    Args:
        task: the task that the rows are for.
        hub: where they are.
        name: of the task, for errors.
        order: sort key of a row.
        most: the most rows of each split.

    Rows without a label are left out.

    Raises:
        ZoplatError: the hub can't be reached, or lacks the data set, configuration or split; `datasets` is not
            installed.
    """
    try:
        import datasets
    except ImportError:
        raise ZoplatError(
            f"Task '{name}': its rows come from the hub, by a package that is not installed: "
            f"pip install 'zoplat[hub]'. Or give {data_hint(task)}"
        ) from None
    offline, is_reachable = datasets.config.HF_HUB_OFFLINE, Path(hub.path).is_dir() or _is_online()
    try:
        datasets.config.HF_HUB_OFFLINE = offline or not is_reachable  # avoids its retries; the cache is still used
        return {
            ours: nsmallest(
                most, _rows(task, hub, datasets.load_dataset(**_arguments(hub, theirs))), lambda row: order(row[1])
            )
            for ours, theirs in hub.splits.items()
        }
    except ZoplatError:
        raise
    except Exception as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
        reason = reason if is_reachable else "it does not answer"
        hint = f"Give {data_hint(task)}"
        raise ZoplatError(f"Task '{name}': no rows from {hub.path} on the hub ({reason}). {hint}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def data_hint(task: Task) -> str:
    """What to give with --data instead, for errors."""
    return (
        "--data DIR, a folder with train.jsonl, dev.jsonl and test.jsonl whose columns are "
        f"{', '.join(task.fields)} and what the answer needs."
    )


def _is_online() -> bool:
    """Whether the hub responds within `SECONDS`."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of whichever library carries the request
        return False
    return True


def _arguments(hub: Hub, split: str) -> dict[str, Any]:
    """Keywords of `datasets.load_dataset`."""
    arguments = {"path": hub.path, "revision": hub.revision, "split": split}
    return arguments | ({"data_dir": hub.name or "default"} if hub.revision == CONVERTED else {"name": hub.name})


def _rows(task: Task, hub: Hub, dataset: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labelled rows of a data set, with our names of columns and with class names instead of numbers."""
    classes = {column: kind.names for column, kind in dataset.features.items() if hasattr(kind, "names")}
    number = 0
    for batch in dataset.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            if not any(row[column] in (None, -1) for column in classes):
                row |= {column: names[row[column]] for column, names in classes.items()}
                ours = {hub.columns.get(column, column): value for column, value in row.items()}
                where = f"{hub.path}, {dataset.split} row {number}"
                yield where, task.with_texts(ours, where)
            number += 1
