"""What a comparison will take: passes by its budgets, hours by the runs that are there already."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.training.directory import RunDirectory
from zoplat.training.dry_run import measure_cost, stand_in_model
from zoplat.training.summary import Summary


@dataclass(frozen=True)
class Pace:
    """How long a kind of run takes, by runs that ended.

    Attributes:
        per_pass: seconds of training for each forward pass.
        beside: seconds of a run beside its training: opening the model, scores, checkpoints.
    """

    per_pass: float
    beside: float


class Paces:
    """Step times of runs that ended, to tell those of others.

    Args:
        folders: in which, and in whose folders, run directories lie.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        paths = sorted({path.parent for folder in folders for path in folder.rglob("summary.json")})
        self._known = [entry for path in paths if (entry := _ended(RunDirectory(path)))]

    def of(self, config: RunConfig) -> Pace | None:
        """The pace of runs like one: with its model, tuning, device and batch, of its method where there are some."""
        alike = [(settings, summary) for settings, summary in self._known if _place(settings) == _place(config.table())]
        same = [pair for pair in alike if pair[0]["estimator"]["name"] == config.estimator_name]
        runs = [summary for _, summary in same or alike]
        if not runs:
            return None
        per_pass = sum(run.seconds_training for run in runs) / sum(run.forward_passes for run in runs)
        return Pace(per_pass, mean(run.seconds - run.seconds_training for run in runs))


@dataclass(frozen=True)
class Forecast:
    """What some runs will take.

    Attributes:
        passes: forward passes of training; None where something else limits a run.
        seconds: one after the other; None where no step time of such a run is known, or how many there are.
    """

    passes: int | None
    seconds: float | None


def forecast(configs: Sequence[RunConfig], paces: Paces) -> Forecast:
    """What runs will take, one after the other."""
    each = [passes_of(config) for config in configs]
    passes = None if None in each else sum(count or 0 for count in each)
    total = 0.0
    for config, count in zip(configs, each, strict=True):
        pace = paces.of(config)
        if pace is None:
            return Forecast(passes, None)
        training = min(math.inf if count is None else count * pace.per_pass, config.max_seconds or math.inf)
        if math.isinf(training):
            return Forecast(passes, None)
        total += training + pace.beside
    return Forecast(passes, total)


def passes_of(config: RunConfig) -> int | None:
    """Forward passes that the budget of a run allows; None where neither steps nor passes limit it."""
    by_steps = config.steps and round(config.steps * passes_of_a_step(config))
    limits = [limit for limit in (config.max_passes, by_steps) if limit]
    return min(limits) if limits else None


def passes_of_a_step(config: RunConfig) -> float:
    """Forward passes of a step, on average, by a dry run; 2 where the method can't be run on shapes."""
    return _passes_of_a_step(config.estimator)


@lru_cache(maxsize=64)
def _passes_of_a_step(estimator: Estimator[Any]) -> float:
    try:
        return measure_cost(estimator, stand_in_model()).forward_passes
    except ZoplatError:
        return 2.0


def _ended(directory: RunDirectory) -> tuple[dict[str, Any], Summary] | None:
    """The settings and the summary of a training run that is there and whole."""
    try:
        summary, settings = directory.read_summary(), directory.read_settings()
    except ZoplatError:
        return None
    is_training = summary and summary.is_whole and summary.forward_passes and summary.seconds_training
    return (settings, summary) if summary and is_training else None


def _place(settings: dict[str, Any]) -> tuple[Any, ...]:
    """What the time of a pass hangs on, as far as settings tell."""
    names = ("model", "task", "batch_size", "micro_batch_size", "dtype", "base", "limit")
    return (*(settings.get(name) for name in names), str(settings["tune"]), str(settings["device"]))
