"""Published scores, to stand beside one's own; never mixed with them."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from zoplat.errors import ZoplatError, unknown


def published_score(model: str, method: str, task: str) -> float | None:
    """Score in per cent that a publication has for a method on a task; None where there is none.

    Raises:
        ZoplatError: nothing is known of the model.
    """
    known = rows()
    models = sorted({row["model"] for row in known})
    if model not in models:
        raise unknown("published model", model, models, "(--published)")
    for row in known:
        if (row["model"], row["method"]) == (model, method) and Path(task).stem in row["scores"]:
            return float(row["scores"][Path(task).stem])
    return None


def sources(model: str) -> list[str]:
    """Where the scores of a model are from, one line a method."""
    return [f"{row['method']}: {row['source']}" for row in rows() if row["model"] == model]


@cache
def rows() -> list[dict[str, Any]]:
    """All that is known: model, method, source and scores by task."""
    text = resources.files("zoplat").joinpath("published.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)["row"]
    if not isinstance(found, list):
        raise ZoplatError("published.toml has no rows.")
    return found
