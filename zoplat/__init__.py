"""zoplat: fine-tune language models with forward passes only.

These are the names that a plugin author needs, and `run`; everything else is imported from its own module.
"""

from typing import TYPE_CHECKING, Any

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Buffer, Part, Tile
from zoplat.core.deprecated import deprecated
from zoplat.core.device import Device, MemoryReading, Session
from zoplat.core.direction import ZERO, Direction, held
from zoplat.core.errors import SkipStep, ZoplatError
from zoplat.core.estimate import Estimate
from zoplat.core.estimator import Estimator
from zoplat.core.example import Example, Row
from zoplat.core.fields import FieldError, number, pattern
from zoplat.core.losses import Number
from zoplat.core.low_rank import LowRankSampler, orthonormal
from zoplat.core.model_spec import ModelSpec, Tuning
from zoplat.core.noise import Key, Noise
from zoplat.core.oracle import Oracle, Slopes
from zoplat.core.preset import Preset, read_presets
from zoplat.core.rule import Schedule, Scheduled, StepRule
from zoplat.core.sampler import Extent, Sampler
from zoplat.hookspecs import hookimpl
from zoplat.space.parameter_space import ParameterSpace

if TYPE_CHECKING:
    from zoplat.training.result import Result

__version__ = "0.1.0"
__all__ = [
    "ZERO",
    "Array",
    "Block",
    "Buffer",
    "Device",
    "Direction",
    "Estimate",
    "Estimator",
    "Example",
    "Extent",
    "FieldError",
    "Key",
    "LowRankSampler",
    "MemoryReading",
    "ModelSpec",
    "Noise",
    "Number",
    "Oracle",
    "ParameterSpace",
    "Part",
    "Preset",
    "Row",
    "Sampler",
    "Schedule",
    "Scheduled",
    "Session",
    "SkipStep",
    "Slopes",
    "StepRule",
    "Tile",
    "Tuning",
    "ZoplatError",
    "held",
    "hookimpl",
    "number",
    "orthonormal",
    "pattern",
    "read_presets",
    "run",
]


def run(**settings: Any) -> "Result":
    """Train as `zoplat run` does.

    Args:
        settings: the flags of the command, with underscores. `options={"sampler.rank": 4}` is the same as
            `-o sampler.rank=4`; a part may be a value as well as a name.

    Returns:
        The result, with `.score`, `.passes`, `.directory` and `.summary`.

    Raises:
        ZoplatError: where the command would exit with 2 or 1.
    """
    from pathlib import Path

    from zoplat.config.layers import resolve
    from zoplat.training.directory import resumed_settings
    from zoplat.training.train import train

    out, resume = settings.pop("out", None), settings.pop("resume", False)
    folder = Path(out) if out else None
    return train(resolve(resumed_settings(settings, folder, resume)), folder, resume)


def __getattr__(name: str) -> Any:
    """Names that earlier versions exported."""
    return deprecated(name)
