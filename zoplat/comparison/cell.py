"""One method on one task with one model and one tuning: what the seeds of a comparison are repetitions of."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoplat.config.layers import chosen_paths, resolve
from zoplat.config.run_config import RunConfig
from zoplat.config.search import declared, declares_nothing, ranges, value_at
from zoplat.core.search import Between, OneOf
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.training.binding import BUDGET

PASSES = 2000
"""Forward passes of each run where no budget is given: 1000 steps of MeZO."""
STEPS = 1000
"""Steps of a run without a budget, as `resolve` has it."""


@dataclass(frozen=True)
class Cell:
    """One method on one task with one model and one tuning: what the seeds are repetitions of.

    Attributes:
        method: its name in the table: the estimator, with sampler and step rule where the matrix varies them.
        task, model, tune: as the matrix names them; empty where it does not.
        settings: for `resolve`, without the seed.
        protocol: how the model is evaluated without training it; None for training.
        folder: of its runs, relative to that of the study.
        asked: ranges that the user gave for this method, by dotted path.
        asked_of_all: those for every method that has such a setting.
        suffix: what the table adds to the method, where there are several models or tunings.
    """

    method: str
    task: str
    model: str
    tune: str
    settings: Mapping[str, Any]
    protocol: EvaluationProtocol | None
    folder: Path
    asked: Mapping[str, Any] = field(default_factory=dict)
    asked_of_all: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""

    @property
    def key(self) -> str:
        """Its name in the database, and that of its claims."""
        return str(self.folder / self.method)

    @property
    def label(self) -> str:
        """Its name in the table."""
        return f"{self.method}{self.suffix}"

    def config(self, seed: int, options: Mapping[str, Any] | None = None) -> RunConfig:
        """The settings of a run.

        Args:
            seed: of the run.
            options: dotted paths → values, those that a search has chosen.
        """
        own = {**copy.deepcopy(dict(self.settings)), "seed": seed}
        own["options"] = {**own.get("options", {}), **(options or {})}
        config = resolve(own)
        is_given = any(own.get(name) is not None or name in own["config"] for name in BUDGET) or own.get("preset")
        if not is_given and (config.steps, config.max_passes, config.max_seconds) == (STEPS, None, None):
            return resolve({**own, "max_passes": PASSES})
        return config

    def ranges(self) -> dict[str, Between | OneOf]:
        """Where a search looks, by dotted path; nowhere for a protocol."""
        if self.protocol:
            return {}
        estimator = self.config(0).estimator
        known = declared(estimator)
        common = {path: asked for path, asked in self.asked_of_all.items() if path in known}
        return ranges(estimator, {**common, **self.asked}, chosen_paths(self.settings))

    def usual(self) -> dict[str, Any]:
        """The values that the searched settings have without a search, by dotted path."""
        estimator = self.config(0).estimator
        return {path: value_at(estimator, path) for path in self.ranges()}

    def declares_nothing(self) -> bool:
        """Whether the method says nowhere what of it to search."""
        return declares_nothing(self.config(0).estimator)

    def samples_by_seed(self) -> bool:
        """Whether another seed may give another result."""
        return self.protocol is None or bool(self.protocol.shots)
