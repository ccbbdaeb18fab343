"""Settings without effect: an ε that no loss sees, an η that moves no weight. They are said while the run goes on."""

from __future__ import annotations

import math

from zoplat.config.run_config import RunConfig
from zoplat.config.usual import value_of
from zoplat.core.device import Session
from zoplat.training.journal import StepRecord


def unseen_radius(config: RunConfig, session: Session, record: StepRecord) -> str:
    """What to tell the user where all losses of a step are the same number; empty otherwise.

    A score may well be the same at several points, and one loss says nothing.
    """
    eps, losses = value_of(config.estimator, "eps"), record.answers
    is_moot = config.is_judged or eps is None or len(losses) < 2 or not all(map(math.isfinite, losses))
    if is_moot or len(set(losses)) > 1:
        return ""
    return (
        f"all {len(losses)} losses of step {record.step + 1} are the same number: weights in "
        f"{session.facts['dtype']} can't hold an eps of {eps:g}, so this step says nothing about the slope. "
        "Use a larger --eps; `zoplat profile --suggest-eps` finds one"
    )


def lost_step(session: Session, record: StepRecord) -> str:
    """What to tell the user where a step was too small to move any weight of the sample; empty otherwise."""
    if record.lr != 0 and not session.space.is_lost:
        return ""
    lr = "" if record.lr is None else f": an lr of {record.lr:g} is too small for weights in {session.facts['dtype']}"
    return f"step {record.step + 1} moves no weight{lr}. Use a larger --lr"
