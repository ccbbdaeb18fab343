"""Weights & Biases, online or into a folder.

WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and WANDB_DIR are W&B's own settings; with WANDB_MODE=offline nothing leaves the
machine, and `wandb sync` sends it later. By default its files are in the run directory. A resumed run keeps its id.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from zoplat import TrackedNumbers, TrackedRun, Tracker, hookimpl


@dataclass(frozen=True)
class WandB(Tracker):
    """A W&B project: WANDB_PROJECT, or zoplat."""

    summary: ClassVar[str] = "Weights & Biases; with WANDB_MODE=offline into a folder"
    module: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"

    def open(self, run: TrackedRun) -> "WandBRun":
        return WandBRun(run)


class WandBRun(TrackedNumbers):
    """One run in a project."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.known_as = run.known or uuid4().hex[:8]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "zoplat"),
            dir=os.environ.get("WANDB_DIR", str(run.directory)),
            name=run.name,
            id=self.known_as,
            resume="allow",
            config=dict(run.settings),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log({"step": step, **numbers})

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        self.run.summary.update(dict(summary or {}))
        self.run.finish(exit_code=0 if summary is not None else 1)


@hookimpl
def zoplat_trackers() -> dict[str, WandB]:
    return {"wandb": WandB()}
