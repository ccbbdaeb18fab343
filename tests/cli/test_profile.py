"""zoplat profile: time and memory of a step by phase, and the suggested radius."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from zoplat.training.directory import RunDirectory
from zoplat.training.profiling import GRID
from zoplat.training.readings import Reading


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


def test_every_byte_of_a_peak_has_an_owner_in_the_table(zoplat: Any) -> None:
    found = profiled(zoplat, "--estimator", "zo-adam", "--steps", 2)
    for row in found["phases"]:
        assert sum(row["owners"].values()) == row["host_peak"], row["phase"]
    step = {row["phase"]: row["owners"] for row in found["phases"]}["forward"]
    assert step["adam/m"] == step["adam/v"] > 0


def test_a_timeline_has_every_phase_of_the_measured_steps_and_samples_between(zoplat: Any) -> None:
    found = profiled(zoplat, "--estimator", "mezo", "--steps", 3)
    stretches = [row for row in found["timeline"] if row["kind"] == "stretch"]
    assert sum(row["phase"] == "forward" for row in stretches) == 3 * 2, "the step for warming up is not in it"
    assert [row["began"] for row in stretches] == sorted(row["began"] for row in stretches)
    assert all(row["host"] > 0 for row in found["timeline"])
    assert max(row["host"] for row in stretches) <= max(row["host_peak"] for row in found["phases"])


def test_inference_alone_makes_no_step(zoplat: Any) -> None:
    found = profiled(zoplat, "--only-inference", "--steps", 4)
    phases = {row["phase"]: row for row in found["phases"]}
    assert found["estimator"] == "inference"
    assert found["forward_passes_a_step"] == 1
    assert {"forward", "move", "rule"}.isdisjoint(phases)
    assert phases["inference"]["calls"] == 1 + 5


def test_machine_probes_are_read_and_those_that_are_named_must_be_there(zoplat: Any) -> None:
    found = profiled(zoplat, "--estimator", "mezo", "--steps", 1, "--probe", "pss")
    names = {row["probe"] for row in found["probes"]}
    assert names | found["probes_missing"].keys() >= {"memory", "pss", "energy", "temperature", "nvml"}
    refused = zoplat("profile", *zoplat.toy, "--probe", "barometer")
    assert refused.exit_code == 2
    assert "barometer" in refused.stderr


def test_recorders_of_allocations_are_refused_by_name(zoplat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "memray", None)
    refused = zoplat("profile", *zoplat.toy, "--memray", "allocations.bin")
    assert refused.exit_code == 2
    assert "pip install memray" in refused.stderr
    refused = zoplat("profile", *zoplat.toy, "--snapshot", "snapshot.pickle")
    assert refused.exit_code == 2
    assert "--memray" in refused.stderr
    assert zoplat.files() == {}


def test_a_run_keeps_the_owners_of_each_phase_and_what_probes_have_read(zoplat: Any) -> None:
    done = zoplat("run", *zoplat.toy, "--estimator", "zo-sgd-mmt", "--steps", 2, "--out", "run")
    assert done.exit_code == 0, done.stderr
    rows = RunDirectory(Path("run")).read_memory()
    step = next(row for row in rows if row.get("phase") == "forward")
    assert any(owner.startswith("momentum") for owner in step["owners"])
    probes = [Reading.of(row) for row in rows if row["kind"] == "probe"]
    assert all(probe.readings >= 2 for probe in probes), "at the beginning and at the end"
