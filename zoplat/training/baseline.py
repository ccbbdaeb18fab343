"""Scores before training, kept between runs: they depend on the model and the rows alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat.core.example import Row
from zoplat.paths import cache_folder, replace_text


class KeptScore:
    """The score of one split before training, in the cache folder.

    Args:
        facts: everything that the score depends on, the rows aside.
        rows: the rows of the split.
    """

    def __init__(self, facts: Sequence[Any], rows: Sequence[Row]) -> None:
        key = json.dumps([*facts, [vars(row.example) for row in rows]], default=str)
        self.path: Path = cache_folder() / "baselines" / f"{sha256(key.encode()).hexdigest()[:32]}.json"

    def read(self) -> float | None:
        """The score; None when no run wrote it yet."""
        return float(json.loads(self.path.read_text())["score"]) if self.path.exists() else None

    def write(self, score: float) -> None:
        """Keep a score for later runs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps({"score": score}))
