"""The hooks that a plugin may implement. Each returns parts by name; hooks never receive the registry."""

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zoplat.core.device import Device
    from zoplat.core.estimator import Estimator
    from zoplat.core.preset import Preset
    from zoplat.core.probe import Probe
    from zoplat.core.rule import StepRule
    from zoplat.core.sampler import Sampler
    from zoplat.core.tracker import Tracker
    from zoplat.tasks.task import Task

API = 1
"""Version of the hooks: of their names, and of what the parts that they return must be. A plugin that says another one,
by `zoplat_api = N` in its module, is refused; docs/reference/stability.md says when it changes."""

hookspec = pluggy.HookspecMarker("zoplat")
hookimpl = pluggy.HookimplMarker("zoplat")


@hookspec
def zoplat_estimators() -> "dict[str, Estimator[Any]]":  # type: ignore[empty-body]
    """Methods with their default settings, by name."""


@hookspec
def zoplat_samplers() -> "dict[str, Sampler]":  # type: ignore[empty-body]
    """Laws of the random directions, by name."""


@hookspec
def zoplat_step_rules() -> "dict[str, StepRule[Any]]":  # type: ignore[empty-body]
    """Step-size rules with their default settings, by name."""


@hookspec
def zoplat_devices() -> "dict[str, Device]":  # type: ignore[empty-body]
    """Devices by name; making one must be cheap, runtimes are imported when a model is opened."""


@hookspec
def zoplat_tasks() -> "dict[str, Task]":  # type: ignore[empty-body]
    """Tasks by name: data, prompts, options and a metric."""


@hookspec
def zoplat_presets() -> "dict[str, Preset]":  # type: ignore[empty-body]
    """Settings of published experiments by name, for `--preset`."""


@hookspec
def zoplat_trackers() -> "dict[str, Tracker]":  # type: ignore[empty-body]
    """Experiment trackers by name, for `--report-to`; their libraries are imported when a run is tracked."""


@hookspec
def zoplat_probes() -> "dict[str, Probe]":  # type: ignore[empty-body]
    """Machine probes by name: energy, temperature, memory as the machine tells them; opened where a run is measured."""
