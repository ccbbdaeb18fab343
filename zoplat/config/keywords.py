"""The keywords of `zoplat.run`, with their types: an editor completes them, a type checker knows them.

The settings of a run are declared in `RunConfig`; tests/test_keywords.py compares the two, and the command's flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from zoplat.core.device import Device
from zoplat.core.estimator import Estimator
from zoplat.core.model_spec import Base, Head
from zoplat.core.rule import StepRule
from zoplat.core.sampler import Sampler


class RunSettings(TypedDict, total=False):
    """The settings of a run; each is explained at `RunConfig` or at the part that it is a field of.

    A part is a registered name, a table of its settings with "name", or a value.
    """

    estimator: str | Mapping[str, Any] | Estimator[Any]
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
    seed: int
    parallel: Literal["none", "data", "queries"]
    steps: int | None
    max_passes: int | None
    max_seconds: float | None
    max_tokens: int | None
    max_joules: float | None
    memory: str | None
    batch_size: int
    micro_batch_size: int | None
    eval_batch_size: int | None
    evaluate_every: int | None
    sync_every: int | None
    limit: int | None
    per_class: int | None
    forgetting: bool
    options: Mapping[str, Any]
    config: str | Path | Mapping[str, Any]
    preset: str | None
