"""zoplat profile: time and memory of a step by phase, and the suggested radius."""

import json
import math
from typing import Any

import pytest

from zoplat.training.profiling import GRID


def profiled(zoplat: Any, *arguments: Any) -> dict[str, Any]:
    done = zoplat("profile", *zoplat.toy, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_phases_and_owners_of_a_step_are_measured_and_nothing_is_written(zoplat: Any) -> None:
    found = profiled(zoplat, "--estimator", "hizoo", "--steps", 3)
    phases = {row["phase"]: row for row in found["phases"]}
    assert found["forward_passes_a_step"] == 3
    assert phases["forward"]["calls"] == 3 * 4, "one step more, for warming up"
    assert {"open", "inference", "forward", "move", "rule"} <= phases.keys()
    assert found["owners"]["hizoo/h"] > 0
    steps = [row["seconds"] for row in found["phases"] if row["of"] == "a step"]
    assert found["seconds_a_step"] == pytest.approx(sum(steps))
    assert zoplat.files() == {}
    shown = zoplat("profile", *zoplat.toy, "--estimator", "hizoo", "--steps", 1).stdout
    assert "3 forward passes a step" in shown
    assert "hizoo/h" in shown


def test_the_radius_grows_with_the_noise_of_the_losses(zoplat: Any) -> None:
    """Slopes agree where rounding and curvature are small; with float16 weights rounding sets in at larger radii."""
    flags = ("--estimator", "mezo", "--suggest-eps")
    fine, coarse = profiled(zoplat, *flags), profiled(zoplat, *flags, "--dtype", "float16")
    assert fine["eps"] in GRID
    assert fine["error"][str(fine["eps"])] <= 0.01
    assert coarse["error"]["1e-05"] > 10 * fine["error"]["1e-05"]
    assert coarse["noise"] > 100 * fine["noise"] > 0
    assert fine["eps"] <= coarse["eps"]
    assert fine["passes"] == 2 * 6 * len(GRID)
    largest = [e for e in fine["error"].values() if math.isfinite(e)][-1]
    assert largest > 0.1, "curvature at the largest radii"
