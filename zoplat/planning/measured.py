"""Modes of a run measured beside each other, each in a process of its own, and what was planned for them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.planning.memory import Rehearsals
from zoplat.planning.modes import ASKED, COMPARED, Mode, configured

YARDSTICKS = tuple(mode for mode in COMPARED if mode.needs == "backward")
KILLED = -9
"""Exit status of a process that the system killed, as it does when memory runs out."""


def measured(
    settings: Mapping[str, Any],
    steps: int,
    beside: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """The asked mode, inference alone, methods to compare with, and backpropagation: what each took and was planned to.

    Args:
        settings: of the run, as `resolve` takes them.
        steps: that are measured.
        beside: names of further estimators.
        tell: is called with what is measured next.

    Yields:
        One dictionary for each: name, flags, profile (as `training.profiling.profile` gives it; None where it failed),
        planned (low, expected and high bytes of its steps; None where that can't be planned), reason (why not).
    """
    asked = configured(settings, ASKED)
    inference = Mode("inference", {"estimator": "mezo"} if "gradient" in asked.estimator.asks else {})
    named = (Mode(name, {"estimator": name}) for name in beside)
    seen, rehearsals = list[Any](), Rehearsals()
    for mode in (inference, Mode(asked.estimator_name, {}), *named, *YARDSTICKS):
        try:
            config = configured(settings, mode)
        except ZoplatError as problem:
            yield {"name": mode.name, "flags": mode.command, "profile": None, "planned": None, "reason": str(problem)}
            continue
        what = (mode is inference, config.estimator, config.tune)
        if what not in seen:
            seen.append(what)
            tell(f"measuring {mode.name}")
            profile, reason = _in_a_process(config, steps, mode is inference)
            planned = _planned(config, mode is inference, rehearsals)
            yield {
                "name": mode.name,
                "flags": mode.command,
                "profile": profile,
                "planned": planned,
                "reason": reason,
            }


def _in_a_process(config: RunConfig, steps: int, only_inference: bool) -> tuple[dict[str, Any] | None, str]:
    """(profile, "") of a mode in a new process, or (None, why there is none)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_text(config.toml(), encoding="utf-8")
        command = [sys.executable, "-m", "zoplat", "profile", "--config", str(file), "--steps", str(steps), "--json"]
        done = subprocess.run(
            [*command, *(["--only-inference"] if only_inference else [])], capture_output=True, text=True, check=False
        )
    if done.returncode == KILLED:
        return None, "its process was killed: there was not enough memory"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["it failed without a word"])[-1]
    found: dict[str, Any] = json.loads(done.stdout)
    return found, ""


def _planned(config: RunConfig, only_inference: bool, rehearsals: Rehearsals) -> dict[str, int] | None:
    """Bytes that the steps of a mode are planned to take, fixed costs included."""
    try:
        planned = rehearsals.planned(config)
    except ZoplatError:
        return None
    counted = planned.inference if only_inference else planned.training
    fixed = [share for share in planned.shares if share.note]
    return {name: counted + sum(getattr(share, name) for share in fixed) for name in ("low", "expected", "high")}
