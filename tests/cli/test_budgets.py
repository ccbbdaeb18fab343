"""Budgets in tokens and joules: what is counted, when a run ends, and what a machine that does not tell is good for."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoplat.comparison.poc import full_joules
from zoplat.registry import catalogue
from zoplat.training.readings import Readings
from zoplat.training.summary import Summary
from zoplat_plugins.probes.energy import Zones
from zoplat_plugins.probes.nvml import Gpus

TOY = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--estimator", "mezo")


def ran(zoplat: Any, *arguments: Any) -> dict[str, Any]:
    done = zoplat("run", *TOY, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def package(folder: Path, name: str, joules: float, largest: float = 1000.0) -> Path:
    """The files of a processor's counter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest * 1e6:.0f}\n")
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for counters of processors, on a machine without GPUs."""
    probe = catalogue().entry("probe", "energy").value
    monkeypatch.setitem(vars(probe), "root", str(tmp_path / "powercap"))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path / "powercap"


def test_tokens_are_those_of_the_batch_for_every_pass(zoplat: Any) -> None:
    one = ran(zoplat, "--steps", 1, "--out", "one")
    assert one["tokens"] > 0
    assert one["tokens"] % one["forward_passes"] == 0
    more = ran(zoplat, "--steps", 1, "--queries", 3, "--out", "more")
    assert more["tokens"] == 3 * one["tokens"], "six passes over the same batch"


def test_a_run_ends_with_its_tokens_and_goes_on_to_the_same_weights(zoplat: Any) -> None:
    whole = ran(zoplat, "--steps", 8, "--evaluate-every", 3, "--out", "whole")
    limited = ran(zoplat, "--max-tokens", whole["tokens"], "--evaluate-every", 3, "--out", "limited")
    assert (limited["steps"], limited["tokens"]) == (8, whole["tokens"])
    first = ran(zoplat, "--max-tokens", whole["tokens"] // 2, "--evaluate-every", 3, "--out", "half")
    assert first["steps"] < 8
    last = ran(zoplat, "--max-tokens", whole["tokens"], "--evaluate-every", 3, "--out", "half", "--resume")
    assert (last["steps"], last["tokens"]) == (8, whole["tokens"])
    assert last["weights_digest"] == limited["weights_digest"] == whole["weights_digest"]


def test_a_part_that_must_know_the_length_of_a_run_is_refused(zoplat: Any) -> None:
    assert "--max-tokens alone does not say" in zoplat.refused("run", *TOY, "--max-tokens", 99, "--step-rule", "linear")


def test_counters_of_packages_are_added_up_and_may_begin_again(powercap: Path) -> None:
    first = package(powercap / "intel-rapl:0", "package-0", 990.0)
    second = package(powercap / "intel-rapl:1", "package-1", 5.0)
    package(powercap / "intel-rapl:0:0", "core", 3.0)
    package(powercap / "intel-rapl:2", "psys", 3.0)
    readings = Readings()
    assert readings.energy_sources == ["energy"]
    before = readings.joules()
    assert before == pytest.approx(995)
    package(first, "package-0", 2.0)
    package(second, "package-1", 6.5)
    assert readings.joules() - before == pytest.approx(12 + 1.5)
    assert readings.joules() - before == pytest.approx(13.5)


def test_gpus_are_read_through_nvml_those_that_cuda_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = {0: 1000, 1: 5000}
    nvml: Any = SimpleNamespace(
        NVMLError=OSError,
        NVMLError_NotSupported=AttributeError,  # the stand-in has nothing else to tell
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=millijoules.__getitem__,
    )
    gpus = Gpus(nvml, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.joules() == 6.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus.joules() == 5.0
    millijoules.update({0: 3000, 1: 9000})
    assert gpus.joules() == 9.0


def test_a_run_ends_with_its_joules(zoplat: Any, powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(powercap / "intel-rapl:0", "package-0", 0.0)
    used = iter(range(10_000))
    monkeypatch.setattr(Zones, "joules", lambda zones: float(next(used)))
    found = ran(zoplat, "--max-joules", 5, "--out", "limited")
    assert (found["steps"], found["joules"]) == (5, 5.0), "one joule between the two readings of a step"


def test_without_a_counter_a_budget_of_joules_is_refused_before_any_work(zoplat: Any, powercap: Path) -> None:
    text = zoplat.refused("run", *TOY, "--max-joules", 5)
    assert "max_joules: this machine does not tell its energy" in text
    assert "--max-tokens" in text
    assert ran(zoplat, "--steps", 1, "--out", "one")["joules"] is None
    refused = zoplat.refused("compare", "--estimators", "mezo", "--device", "reference", "--max-joules", 5)
    assert "does not tell its energy" in refused


def test_doctor_and_poc_say_what_tells(zoplat: Any, powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "energy no counter can be read" in zoplat("doctor").stdout
    package(powercap / "intel-rapl:0", "package-0", 0.0)
    assert "energy energy" in zoplat("doctor").stdout
    spent = Summary.from_json({"forward_passes": 10, "joules": 5.0})
    assert full_joules(spent, 40_000) == 20_000
    assert full_joules(Summary.from_json({"forward_passes": 10}), 40_000) is None
