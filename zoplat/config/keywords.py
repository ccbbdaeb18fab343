"""The keywords of `zoplat.run`, `plan` and `compare`, with types: an editor completes them, a type checker knows them.

The settings of a run are declared in `RunConfig`; tests/test_keywords.py compares the two, and the flags of commands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_type_hints

from zoplat.core.device import Device
from zoplat.core.estimator import Estimator
from zoplat.core.model_spec import Base, Head
from zoplat.core.rule import StepRule
from zoplat.core.sampler import Sampler

Function = TypeVar("Function", bound=Callable[..., Any])
Names: TypeAlias = str | Sequence[str] | Mapping[str, Mapping[str, Any]]
"""An axis of a comparison: a name, several, or a table of settings by name."""
Part = TypeVar("Part")
Parts: TypeAlias = Names | Part | type[Part] | Sequence[str | Part | type[Part]]
"""An axis that takes parts, and their classes, beside names."""


class Settings(TypedDict, total=False):
    """What runs, plans and comparisons take; each is explained at `RunConfig` or at the part that it is a field of.

    A part is a registered name, a table of its settings with "name", or a value.
    """

    sampler: str | Mapping[str, Any] | Sampler
    step_rule: str | Mapping[str, Any] | StepRule[Any]
    device: str | Mapping[str, Any] | Device
    tune: str | Mapping[str, Any]
    lr: float | None
    eps: float | None
    queries: int | None
    model: str | Path | None
    task: str | Path
    data: str | Path | None
    dtype: str
    base: Base
    head: Head
    template: Literal["auto", "prompt", "plain", "chat"]
    objective: str
    steps: int | None
    max_passes: int | None
    max_seconds: float | None
    max_tokens: int | None
    max_joules: float | None
    batch_size: int
    micro_batch_size: int | None
    eval_batch_size: int | None
    evaluate_every: int | None
    sync_every: int | None
    limit: int | None
    per_class: int | None
    options: Mapping[str, Any]
    config: str | Path | Mapping[str, Any]
    preset: str | None


class PlanSettings(Settings, total=False):
    """The settings of a run that is planned."""

    estimator: str | Mapping[str, Any] | Estimator[Any]
    seed: int


class RunSettings(PlanSettings, total=False):
    """The settings of a run."""

    forgetting: bool
    memory: str | None
    parallel: Literal["none", "data", "queries"]


class CompareSettings(Settings, total=False):
    """The settings of a comparison: those that all of its runs have, and the axes along which they differ.

    The axes and the numbers of the search are explained at `comparison.matrix.Matrix`.
    """

    forgetting: bool
    estimators: Parts[Estimator[Any]]
    samplers: Parts[Sampler]
    step_rules: Parts[StepRule[Any]]
    tasks: Names
    models: Names
    tunes: Names
    seeds: int | Sequence[int]
    tune_trials: int
    trial_passes: int
    tune_seed: int


def spelled_out(settings: type) -> Callable[[Function], Function]:
    """A decorator for a function with `**settings: Unpack[…]`: notebooks and help() see the keywords one by one."""

    def spell(function: Function) -> Function:
        own = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
        keyword, none = inspect.Parameter.KEYWORD_ONLY, None
        more = [inspect.Parameter(name, keyword, default=none) for name in get_type_hints(settings)]
        function.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]  # what inspect reads
        return function

    return spell
