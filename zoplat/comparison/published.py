"""Scores from publications, shown beside one's own and never averaged with them."""

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
    """Published scores of one model.

    Attributes:
        model: its name in tables.
        rows: by method, its source and its scores by task, in per cent.
    """

    model: str
    rows: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, model: str) -> Published:
        """The published scores of a model; raises ZoplatError where there are none."""
        file = resources.files("zoplat.comparison").joinpath("published.toml")
        known = tomllib.loads(file.read_text(encoding="utf-8"))["row"]
        rows = {row["method"]: row for row in known if row["model"] == model}
        if not rows:
            raise unknown("published model", model, sorted({row["model"] for row in known}), "(--published)")
        return cls(model, rows)

    def score(self, method: str, task: str) -> float | None:
        """Score of a method on a task (its name or file), in per cent; None where there is none."""
        score = self.rows.get(method, {"scores": {}})["scores"].get(Path(task).stem)
        return None if score is None else float(score)

    def sources(self, methods: Iterable[str]) -> list[str]:
        """Sources of the scores of these methods: one line per source."""
        by_source: dict[str, list[str]] = {}
        for method in methods:
            if method in self.rows:
                by_source.setdefault(self.rows[method]["source"], []).append(method)
        return [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
