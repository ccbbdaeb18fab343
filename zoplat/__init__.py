"""zoplat: fine-tune language models with forward passes only.

These are the names a plugin author needs, and `run`; everything else is reached through its own module.
"""

from typing import TYPE_CHECKING, Any

from zoplat.blocks import Block, Buffer, Part, Tile
from zoplat.device import Device, Example, MemoryReading, ModelSpec, Row, Session
from zoplat.direction import ZERO, Direction, Key
from zoplat.errors import SkipStep, ZoplatError
from zoplat.estimator import Estimate, Estimator
from zoplat.hookspecs import hookimpl
from zoplat.oracle import Oracle
from zoplat.preset import Preset, read_presets
from zoplat.rule import Cost, Schedule, Scheduled, StepRule, numbers
from zoplat.sampler import Noise, Sampler, held
from zoplat.space import ParameterSpace

if TYPE_CHECKING:
    from zoplat.results import Result

__version__ = "0.1.0"
__all__ = [
    "ZERO",
    "Block",
    "Buffer",
    "Cost",
    "Device",
    "Direction",
    "Estimate",
    "Estimator",
    "Example",
    "Key",
    "MemoryReading",
    "ModelSpec",
    "Noise",
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
    "StepRule",
    "Tile",
    "ZoplatError",
    "held",
    "hookimpl",
    "numbers",
    "read_presets",
    "run",
]


def run(**settings: Any) -> "Result":
    """One training run; the keywords are the flags of `zoplat run` with underscores.

    `options={"sampler.rank": 4}` stands for repeated `-o`; `out` and `resume` are those of the command. Returns
    the result with `.score`, `.passes` and `.directory`; raises ZoplatError where the command would exit with 2 or 1.
    """
    from pathlib import Path

    from zoplat.engine import train
    from zoplat.settings import resolve

    out, resume = settings.pop("out", None), settings.pop("resume", False)
    return train(resolve(settings), Path(out) if out else None, resume)
