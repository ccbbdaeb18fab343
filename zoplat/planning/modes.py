"""The modes of a run that are planned beside each other: the one that was asked for, and others to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig

OF_THE_METHOD = ("sampler", "step_rule", "preset", "lr", "eps", "queries")
"""Flags that belong to the method that was asked for, and to no other."""


@dataclass(frozen=True)
class Mode:
    """A way to train a model.

    Attributes:
        name: in the table.
        flags: what it changes.
        needs: "forward" for forward passes only, else "backward".
    """

    name: str
    flags: Mapping[str, Any]
    needs: str = "forward"

    @property
    def command(self) -> str:
        """The flags as on a command line."""
        pairs = {name: value for name, value in self.flags.items() if name != "options"}
        options = [f"-o {path}={value}" for path, value in self.flags.get("options", {}).items()]
        return " ".join([*(f"--{name.replace('_', '-')} {value}" for name, value in pairs.items()), *options])


ASKED = Mode("as asked", {})
CHECKPOINTED = Mode(
    "backpropagation, LoRA, checkpointed",
    {"estimator": "adamw", "tune": "lora", "options": {"recompute": "true"}},
    "backward",
)
COMPARED = (
    Mode("mezo, all weights", {"estimator": "mezo", "tune": "full"}),
    Mode("lozo, all weights", {"estimator": "lozo", "tune": "full"}),
    Mode("mezo, all weights, bfloat16", {"estimator": "mezo", "tune": "full", "dtype": "bfloat16"}),
    Mode("mezo, LoRA", {"estimator": "mezo", "tune": "lora"}),
    Mode("mezo, LoRA, int8 base", {"estimator": "mezo", "tune": "lora", "base": "int8"}),
    CHECKPOINTED,
    Mode("backpropagation, AdamW, all weights", {"estimator": "adamw", "tune": "full"}, "backward"),
)


def configured(settings: Mapping[str, Any], mode: Mode) -> RunConfig:
    """The settings of a mode: those given, without what belongs to another method, and its own."""
    given = {name: value for name, value in settings.items() if value is not None}
    if "estimator" in mode.flags:
        given = {name: value for name, value in given.items() if name not in OF_THE_METHOD}
        options = {p: v for p, v in given.get("options", {}).items() if p.partition(".")[0] in ("device", "tune")}
        given["options"] = {**options, **mode.flags.get("options", {})}
    return resolve({**given, **{name: value for name, value in mode.flags.items() if name != "options"}})
