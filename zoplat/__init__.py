"""zoplat: fine-tune language models with forward passes only.

These are the names that a plugin author needs, and the commands as functions: `run`, `compare`, `plan` and `check`;
everything else is imported from its own module. They are imported when they are used, so that `zoplat --help` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoplat.calls.check import CheckResult, check
    from zoplat.calls.compare import ComparisonResult, compare
    from zoplat.calls.plan import PlanResult, plan
    from zoplat.calls.run import RunResult, run
    from zoplat.core.arrays import Array
    from zoplat.core.blocks import Block, Buffer, Part, Tile
    from zoplat.core.composed import Composed
    from zoplat.core.device import Device, Session
    from zoplat.core.direction import ZERO, Direction, held
    from zoplat.core.errors import SkipStep, ZoplatError
    from zoplat.core.estimate import Estimate
    from zoplat.core.estimator import Estimator
    from zoplat.core.example import Example, Row
    from zoplat.core.fields import FieldError, number, pattern
    from zoplat.core.losses import Number
    from zoplat.core.low_rank import LowRankSampler
    from zoplat.core.memory import MemoryReading
    from zoplat.core.model_spec import ModelSpec, Tuning
    from zoplat.core.noise import Key, Noise
    from zoplat.core.oracle import Oracle, Slopes
    from zoplat.core.orthonormal import orthonormal
    from zoplat.core.preset import Preset, read_presets
    from zoplat.core.probe import Gauge, Probe, Unit
    from zoplat.core.row_signs import RowSigns
    from zoplat.core.rule import Schedule, Scheduled, StepRule
    from zoplat.core.sampler import Extent, Sampler
    from zoplat.core.search import Around, Between, OneOf
    from zoplat.core.tracker import TrackedNumbers, TrackedRun, Tracker
    from zoplat.hookspecs import hookimpl
    from zoplat.space.parameter_space import ParameterSpace
    from zoplat.training.callbacks import Callback

__version__ = "0.1.0"
__all__ = [
    "ZERO",
    "Around",
    "Array",
    "Between",
    "Block",
    "Buffer",
    "Callback",
    "CheckResult",
    "ComparisonResult",
    "Composed",
    "Device",
    "Direction",
    "Estimate",
    "Estimator",
    "Example",
    "Extent",
    "FieldError",
    "Gauge",
    "Key",
    "LowRankSampler",
    "MemoryReading",
    "ModelSpec",
    "Noise",
    "Number",
    "OneOf",
    "Oracle",
    "ParameterSpace",
    "Part",
    "PlanResult",
    "Preset",
    "Probe",
    "Row",
    "RowSigns",
    "RunResult",
    "Sampler",
    "Schedule",
    "Scheduled",
    "Session",
    "SkipStep",
    "Slopes",
    "StepRule",
    "Tile",
    "TrackedNumbers",
    "TrackedRun",
    "Tracker",
    "Tuning",
    "Unit",
    "ZoplatError",
    "check",
    "compare",
    "held",
    "hookimpl",
    "number",
    "orthonormal",
    "pattern",
    "plan",
    "read_presets",
    "run",
]
_WHERE = {
    "zoplat.calls.check": "CheckResult check",
    "zoplat.calls.compare": "ComparisonResult compare",
    "zoplat.calls.plan": "PlanResult plan",
    "zoplat.calls.run": "RunResult run",
    "zoplat.core.arrays": "Array",
    "zoplat.core.blocks": "Block Buffer Part Tile",
    "zoplat.core.composed": "Composed",
    "zoplat.core.device": "Device Session",
    "zoplat.core.direction": "ZERO Direction held",
    "zoplat.core.errors": "SkipStep ZoplatError",
    "zoplat.core.estimate": "Estimate",
    "zoplat.core.estimator": "Estimator",
    "zoplat.core.example": "Example Row",
    "zoplat.core.fields": "FieldError number pattern",
    "zoplat.core.losses": "Number",
    "zoplat.core.low_rank": "LowRankSampler",
    "zoplat.core.orthonormal": "orthonormal",
    "zoplat.core.memory": "MemoryReading",
    "zoplat.core.model_spec": "ModelSpec Tuning",
    "zoplat.core.noise": "Key Noise",
    "zoplat.core.oracle": "Oracle Slopes",
    "zoplat.core.preset": "Preset read_presets",
    "zoplat.core.probe": "Gauge Probe Unit",
    "zoplat.core.row_signs": "RowSigns",
    "zoplat.core.rule": "Schedule Scheduled StepRule",
    "zoplat.core.sampler": "Extent Sampler",
    "zoplat.core.tracker": "TrackedNumbers TrackedRun Tracker",
    "zoplat.core.search": "Around Between OneOf",
    "zoplat.hookspecs": "hookimpl",
    "zoplat.space.parameter_space": "ParameterSpace",
    "zoplat.training.callbacks": "Callback",
}
"""Module → the public names that it has, as type checkers read them above."""


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used; or one that earlier versions exported."""
    for module, names in _WHERE.items():
        if name in names.split():
            return globals().setdefault(name, getattr(import_module(module), name))
    from zoplat.core.deprecated import deprecated

    return deprecated(name)


def __dir__() -> list[str]:
    """The public names, so that a notebook completes them."""
    return sorted({*globals(), *__all__})
