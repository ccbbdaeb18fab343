"""The hooks a plugin may implement. Each returns values; nobody is handed a registry to call back into."""

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from zoplat.core.device import Device
    from zoplat.core.estimator import Estimator
    from zoplat.core.preset import Preset
    from zoplat.core.rule import StepRule
    from zoplat.core.sampler import Sampler
    from zoplat.tasks.task import Task

hookspec = pluggy.HookspecMarker("zoplat")
hookimpl = pluggy.HookimplMarker("zoplat")


@hookspec
def zoplat_estimators() -> "dict[str, Estimator]":  # type: ignore[empty-body]
    """Method names and their usual settings."""


@hookspec
def zoplat_samplers() -> "dict[str, Sampler]":  # type: ignore[empty-body]
    """Perturbation laws."""


@hookspec
def zoplat_step_rules() -> "dict[str, StepRule]":  # type: ignore[empty-body]
    """Step-size rules."""


@hookspec
def zoplat_devices() -> "dict[str, Device]":  # type: ignore[empty-body]
    """Device backends; constructing one must be cheap."""


@hookspec
def zoplat_tasks() -> "dict[str, Task]":  # type: ignore[empty-body]
    """Tasks: data, prompt, options and metric."""


@hookspec
def zoplat_presets() -> "dict[str, Preset]":  # type: ignore[empty-body]
    """Settings of a publication, for `--preset`."""
