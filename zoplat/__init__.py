"""zoplat: fine-tune language models with forward passes only.

These are the names that a plugin author needs, and `run`; everything else is imported from its own module. They are
imported when they are used, so that `zoplat --help` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Unpack

    from zoplat.config.keywords import RunSettings
    from zoplat.core.arrays import Array
    from zoplat.core.blocks import Block, Buffer, Part, Tile
    from zoplat.core.device import Device, Session
    from zoplat.core.direction import ZERO, Direction, held
    from zoplat.core.errors import SkipStep, ZoplatError
    from zoplat.core.estimate import Estimate
    from zoplat.core.estimator import Estimator
    from zoplat.core.example import Example, Row
    from zoplat.core.fields import FieldError, number, pattern
    from zoplat.core.losses import Number
    from zoplat.core.low_rank import LowRankSampler, orthonormal
    from zoplat.core.memory import MemoryReading
    from zoplat.core.model_spec import ModelSpec, Tuning
    from zoplat.core.noise import Key, Noise
    from zoplat.core.oracle import Oracle, Slopes
    from zoplat.core.preset import Preset, read_presets
    from zoplat.core.probe import Gauge, Probe, Unit
    from zoplat.core.rule import Schedule, Scheduled, StepRule
    from zoplat.core.sampler import Extent, Sampler
    from zoplat.core.search import Around, Between, OneOf
    from zoplat.core.tracker import TrackedNumbers, TrackedRun, Tracker
    from zoplat.hookspecs import hookimpl
    from zoplat.space.parameter_space import ParameterSpace
    from zoplat.training.callbacks import Callback
    from zoplat.training.result import Result

__version__ = "0.1.0"
__all__ = [
    "ZERO",
    "Around",
    "Array",
    "Between",
    "Block",
    "Buffer",
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
    "Preset",
    "Probe",
    "Row",
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
    "held",
    "hookimpl",
    "number",
    "orthonormal",
    "pattern",
    "read_presets",
    "run",
]
_WHERE = {
    "zoplat.core.arrays": "Array",
    "zoplat.core.blocks": "Block Buffer Part Tile",
    "zoplat.core.device": "Device Session",
    "zoplat.core.direction": "ZERO Direction held",
    "zoplat.core.errors": "SkipStep ZoplatError",
    "zoplat.core.estimate": "Estimate",
    "zoplat.core.estimator": "Estimator",
    "zoplat.core.example": "Example Row",
    "zoplat.core.fields": "FieldError number pattern",
    "zoplat.core.losses": "Number",
    "zoplat.core.low_rank": "LowRankSampler orthonormal",
    "zoplat.core.memory": "MemoryReading",
    "zoplat.core.model_spec": "ModelSpec Tuning",
    "zoplat.core.noise": "Key Noise",
    "zoplat.core.oracle": "Oracle Slopes",
    "zoplat.core.preset": "Preset read_presets",
    "zoplat.core.probe": "Gauge Probe Unit",
    "zoplat.core.rule": "Schedule Scheduled StepRule",
    "zoplat.core.sampler": "Extent Sampler",
    "zoplat.core.tracker": "TrackedNumbers TrackedRun Tracker",
    "zoplat.core.search": "Around Between OneOf",
    "zoplat.hookspecs": "hookimpl",
    "zoplat.space.parameter_space": "ParameterSpace",
}
"""Module → the public names that it has, as type checkers read them above."""


def run(
    *,
    out: "str | Path | None" = None,
    resume: bool = False,
    callback: "Callback | None" = None,
    report_to: "str | Sequence[str] | None" = None,
    rank_timeout: float = 1800.0,
    **settings: "Unpack[RunSettings]",
) -> "Result":
    """Train as `zoplat run` does.

    Args:
        out: the run directory; None for a new one in runs/.
        resume: whether to go on with the run in `out`, if there is one.
        callback: is notified of the events of the run.
        report_to: names of trackers.
        rank_timeout: seconds to wait for another process of the run.
        settings: the flags of the command, with underscores. `options={"sampler.rank": 4}` is the same as
            `-o sampler.rank=4`; a part may be a value as well as a name.

    Returns:
        The result, with `.score`, `.passes`, `.directory`, `.summary` and `.history()`.

    Raises:
        ZoplatError: where the command would exit with 2 or 1.
    """
    from pathlib import Path

    from zoplat.planning.within import train_within
    from zoplat.training.directory import resumed_settings

    folder = Path(out) if out else None
    found = resumed_settings(settings, folder, bool(resume))
    return train_within(found, folder, bool(resume), callback, report_to, rank_timeout)


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used; or one that earlier versions exported."""
    for module, names in _WHERE.items():
        if name in names.split():
            return globals().setdefault(name, getattr(import_module(module), name))
    from zoplat.core.deprecated import deprecated

    return deprecated(name)
