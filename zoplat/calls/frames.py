"""Results as frames of pandas, which is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.training.callbacks import COLUMNS
from zoplat.training.directory import RunDirectory


def pandas(what: str) -> Any:
    """The library.

    Args:
        what: needs it, for the message.

    Raises:
        ZoplatError: it is not installed.
    """
    try:
        import pandas as library
    except ImportError:
        raise ZoplatError(f"{what} needs pandas, which is not installed: pip install pandas.") from None
    return library


def frame(rows: Iterable[Mapping[str, Any]], what: str) -> Any:
    """A frame of rows; see `pandas`."""
    return pandas(what).DataFrame([dict(row) for row in rows])


def history(path: Path) -> Any:
    """A run step by step, as a pandas frame.

    Its index is the number of steps made. Columns: loss, the mean of the losses of the last of them; lr, its step size;
    dev and test, the scores after it; and what callbacks have logged after it. What there is not is NaN.

    Args:
        path: the run directory.

    Raises:
        ZoplatError: pandas is not installed, or the run directory lost its journal.
    """
    library, directory = pandas("history()"), RunDirectory(path)
    journal = directory.read_journal()
    if journal is None:
        raise ZoplatError(f"{directory.journal} is gone, so the run has no history any more. Put a copy of it back.")
    rows: dict[int, dict[str, Any]] = {one.step + 1: {"loss": one.loss, "lr": one.lr} for one in journal.steps}
    for record in directory.read_metrics():
        rows.setdefault(record["step"], {})[record["split"]] = record["score"]
    for step, numbers in directory.read_logged().items():
        rows.setdefault(step, {}).update(numbers)
    table = library.DataFrame.from_dict(dict(sorted(rows.items())), orient="index", dtype=float)
    own = [name for name in table.columns if name not in COLUMNS]
    return table.reindex(columns=["loss", "lr", "dev", "test", *own]).rename_axis("step")
