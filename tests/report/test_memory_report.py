"""The memory report: modes side by side, owners by phase, and what it says where something is missing."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from zoplat.planning import measured as module
from zoplat.planning.measured import measured
from zoplat.report.profile import write_profile
from zoplat.report.profile_figures import GROUPS, grouped
from zoplat.training.attribution import NOBODY, shared_out

from .test_in_a_browser import CHROMIUM, chromium
from .test_in_a_browser import measured as widths

MIB = 1 << 20


def phase(name: str, **owners: int) -> dict[str, Any]:
    sizes = {owner.replace("_", " "): size * MIB for owner, size in owners.items()}
    peaks = {"host_peak": sum(sizes.values()), "device_peak": None}
    return {"phase": name, "seconds": 1.0, "of": "a step", "calls": 1, **peaks, "owners": sizes}


def profile(*phases: dict[str, Any]) -> dict[str, Any]:
    stretch = {"kind": "stretch", "phase": "forward", "began": 0.0, "ended": 0.5, "host": 300 * MIB, "device": None}
    sample = {"kind": "sample", "phase": "", "began": 0.1, "ended": 0.1, "host": 290 * MIB, "device": None}
    energy = {"probe": "energy", "quantity": "package-0", "unit": "J", "mean": None, "most": None, "total": 12.5}
    facts = {"model": "m", "tune": "full", "dtype": "float32", "threads": 1, "memory_counter": "kernel"}
    return {
        "phases": [*phases],
        "steps": 2,
        "reserved": None,
        "probes": [{**energy, "last": 99.0}],
        "probes_missing": {"nvml": "no driver"},
        "timeline": [stretch, sample],
        **facts,
    }


@pytest.fixture
def cases() -> list[dict[str, Any]]:
    weights = {"python,_torch_and_transformers": 100, "trainable_weights": 150}
    opening = phase("open", **weights, no_owner=400)
    inference = profile(opening, phase("inference", **weights, activations=20))
    asked = profile(opening, phase("move", **weights), phase("forward", **weights, activations=20, momentum=30))
    asked["phases"][2]["owners"][NOBODY] = 10 * MIB
    asked["phases"][2]["host_peak"] += 10 * MIB
    planned = {"low": 260 * MIB, "expected": 279 * MIB, "high": 340 * MIB}
    return [
        {"name": "inference", "flags": "", "profile": inference, "planned": None, "reason": ""},
        {"name": "zo-sgd-mmt", "flags": "", "profile": asked, "planned": planned, "reason": ""},
        {"name": "adamw <all>", "flags": "", "profile": None, "planned": None, "reason": "its process was killed"},
    ]


def test_it_has_the_modes_side_by_side_with_the_plan_and_says_why_one_is_missing(
    cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    files = {path.name: path for path in write_profile(cases, "zoplat profile …", tmp_path)}
    text, page = files["report.md"].read_text(), files["report.html"].read_text()
    assert "| zo-sgd-mmt | 310 MiB | 1.148 | 279 MiB | 260 MiB – 340 MiB | -10.0% | 3.2% |" in text
    assert "adamw &lt;all&gt; was not measured: its process was killed." in page
    assert "1.148 × inference, above the 1.05" in text
    assert "10 MiB have no owner: that is a defect" in text
    assert "| energy | package-0 | – | – | 12.5 J | 99.0 J |" in text
    assert "| momentum | – | – | 30.0 |" in text
    rows = list(csv.DictReader(files["timeline.csv"].open()))
    assert [row["kind"] for row in rows] == ["stretch", "sample"]
    assert json.loads(files["profile.json"].read_text())["cases"] == cases
    for name in ("report-memory.svg", "report-phases.svg", "report-timeline.svg"):
        assert files[name].read_text().count("<svg") == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_it_fits_a_telephone_without_a_console_message(cases: list[dict[str, Any]], tmp_path: Path) -> None:
    page = write_profile(cases, "zoplat profile …", tmp_path)[0]
    assert chromium(page)[1] == []
    found = widths(page, tmp_path, width=400)
    assert (found["scroll"] <= 400, found["wide"]) == (True, [])


def test_owners_add_up_to_a_peak_whatever_was_counted() -> None:
    assert shared_out(10, {"weights": 8, "activations": 5}, {"code": 3}) == {"weights": 8, "activations": 2}
    assert shared_out(10, {}, {}) == {NOBODY: 10}
    assert shared_out(10, {"weights": 0}, {"code": 20}) == {"code": 10}


def test_every_owner_has_a_group() -> None:
    owners = {"trainable weights, in files": 1, "adam/m": 2, "gradients": 4, "logits": 8, "noise kernels": 16}
    found = grouped({**owners, "work buffers of MKL": 32, NOBODY: 64})
    assert [*found] == [*GROUPS]
    assert sum(found.values()) == 127


def test_every_mode_is_measured_once_and_one_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, bool]] = []

    def run(config: Any, steps: int, only_inference: bool) -> tuple[dict[str, Any] | None, str]:
        made.append((config.estimator_name, only_inference))
        return (None, "too large") if config.estimator_name == "adamw" else ({"steps": steps}, "")

    monkeypatch.setattr(module, "_in_a_process", run)
    monkeypatch.setattr(module, "_planned", lambda *_: None)
    found = list(measured({"estimator": "mezo", "tune": "full"}, 3, ["lozo", "mezo", "nothing-like-it"]))
    assert made == [("mezo", True), ("mezo", False), ("lozo", False), ("adamw", False), ("adamw", False)]
    assert [case["reason"] for case in found if case["name"].startswith("backprop")] == ["too large"] * 2
    assert "nothing-like-it" in next(case for case in found if case["name"] == "nothing-like-it")["reason"]
    assert found[1]["profile"] == {"steps": 3}
