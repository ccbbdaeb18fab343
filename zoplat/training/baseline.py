"""Scores and predictions before training, kept between runs: they depend on the model and the rows alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat.core.example import Row
from zoplat.paths import cache_folder, replace_text


class KeptScore:
    """The score of one split before training and the predictions behind it, in the cache folder.

    Args:
        facts: everything that the score depends on, the rows aside.
        rows: the rows of the split.
    """

    def __init__(self, facts: Sequence[Any], rows: Sequence[Row]) -> None:
        key = json.dumps([*facts, [vars(row.example) for row in rows]], default=str)
        self.path: Path = cache_folder() / "baselines" / f"{sha256(key.encode()).hexdigest()[:32]}.json"

    def read(self) -> tuple[float, list[str | None]] | None:
        """(score, prediction of each row); None where no run of this version wrote them, or the file is damaged."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return float(kept["score"]), list(kept["predicted"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, score: float, predicted: Sequence[str | None]) -> None:
        """Keep a score and its predictions for later runs, where there is room for them."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, json.dumps({"score": score, "predicted": list(predicted)}))
