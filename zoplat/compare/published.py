"""Published scores, to stand beside one's own; never mixed with them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from zoplat.core.errors import unknown


@dataclass(frozen=True)
class Published:
    """What publications say of a model.

    Attributes:
        model: its name in tables.
        rows: by method, its source and its scores in per cent by task.
    """

    model: str
    rows: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, model: str) -> Published:
        """All that is known of a model; raises ZoplatError where that is nothing."""
        known = tomllib.loads(resources.files("zoplat").joinpath("published.toml").read_text(encoding="utf-8"))["row"]
        rows = {row["method"]: row for row in known if row["model"] == model}
        if not rows:
            raise unknown("published model", model, sorted({row["model"] for row in known}), "(--published)")
        return cls(model, rows)

    def score(self, method: str, task: str) -> float | None:
        """In per cent, of a method on a task or its file; None where there is none."""
        found = self.rows.get(method, {"scores": {}})["scores"].get(Path(task).stem)
        return None if found is None else float(found)

    def sources(self, methods: Iterable[str]) -> list[str]:
        """Where the scores of these methods are from: one line a source."""
        by_source: dict[str, list[str]] = {}
        for method in methods:
            if method in self.rows:
                by_source.setdefault(self.rows[method]["source"], []).append(method)
        return [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
