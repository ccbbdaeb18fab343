"""`zoplat list`, `show` and `doctor`, also with plugins that are broken or clash."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SAMPLER = '''"""Ones: no law at all."""

from dataclasses import dataclass

from zoplat import Sampler, hookimpl


@dataclass(frozen=True)
class Ones(Sampler):
    """Every entry is 1."""

    def fill(self, out, tile, key, noise):
        out[:] = 1.0


@hookimpl
def zoplat_samplers():
    return {"NAME": Ones()}
'''


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("estimators", "lozo"),
        ("samplers", "low-rank"),
        ("step-rules", "cosine"),
        ("devices", "reference"),
        ("tasks", "sentiment"),
    ],
)
def test_a_listing_names_each_part_with_its_summary_and_its_distribution(zoplat: Any, kind: str, name: str) -> None:
    rows = json.loads(zoplat("list", kind, "--json").stdout)
    assert all(row.keys() >= {"name", "summary", "distribution", "version"} for row in rows)
    assert all(row["summary"] for row in rows)
    row = next(row for row in rows if row["name"] == name)
    assert row["distribution"] == "zoplat"
    assert f"{name} " in zoplat("list", kind).stdout


def test_runs_are_listed_with_their_scores(zoplat: Any) -> None:
    assert json.loads(zoplat("list", "runs", "--json").stdout) == []
    summary = zoplat.run("--steps", 2)
    Path("runs/begun").mkdir()
    Path("runs/begun/config.toml").write_text("")
    rows = {row["name"]: row for row in json.loads(zoplat("list", "runs", "--json").stdout)}
    assert rows[summary["run_dir"]]["weights_digest"] == summary["weights_digest"]
    assert "accuracy" in rows[summary["run_dir"]]["summary"]
    assert "--resume" in rows["runs/begun"]["summary"]
    assert zoplat("list", "runs", "--in", "runs/begun", "--json").stdout == "[]\n"


def test_a_model_that_was_only_evaluated_is_listed_with_its_score(zoplat: Any) -> None:
    toy = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 1)
    assert zoplat("compare", "--estimators", "zero-shot,mezo", *toy, "--out", "all").exit_code == 0
    listed = zoplat("list", "runs", "--in", "all")
    assert listed.exit_code == 0, listed.exception
    assert "zero-shot on sentiment: accuracy" in listed.stdout
    assert "without training" in listed.stdout


def test_show_prints_the_box_the_fields_and_the_package(zoplat: Any) -> None:
    text = zoplat("show", "lozo").stdout
    for words in ("estimator lozo  (zoplat ", "Z = U Vᵀ", "arXiv:2410.07698", "sampler.rank = 2", "rule.lr = 1e-07"):
        assert words in text
    shown = json.loads(zoplat("show", "lozo", "--json").stdout)
    assert shown.keys() >= {"kind", "name", "summary", "distribution", "version", "box", "fields"}
    assert shown["fields"]["sampler.interval"] == "50"


@pytest.mark.parametrize("name", ["sphere", "linear", "reference", "cpu", "boolq"])
def test_show_knows_every_kind_of_part(zoplat: Any, name: str) -> None:
    shown = json.loads(zoplat("show", name, "--json").stdout)
    assert shown["name"] == name
    assert shown["box"]


def test_show_of_an_unknown_name_suggests_the_nearest(zoplat: Any) -> None:
    assert "Did you mean 'gaussian'?" in zoplat.refused("show", "gausian")


def test_doctor_lists_versions_devices_failures_and_clashes(zoplat: Any) -> None:
    found = json.loads(zoplat("doctor", "--json").stdout)
    assert found.keys() >= {"python", "versions", "devices", "parts", "failed", "clashes"}
    assert found["devices"]["reference"] == "ready"
    assert found["failed"] == found["clashes"] == []
    assert "reference" in zoplat("doctor").stdout


def test_a_distribution_that_is_installed_is_found(zoplat: Any, distribution: Any) -> None:
    distribution("zoplat-ones", SAMPLER.replace("NAME", "ones"), "2.5")
    row = next(row for row in json.loads(zoplat("list", "samplers", "--json").stdout) if row["name"] == "ones")
    assert (row["distribution"], row["version"], row["summary"]) == ("zoplat-ones", "2.5", "Ones: no law at all")
    assert "sampler ones  (zoplat-ones 2.5)" in zoplat("show", "ones").stdout
    assert zoplat.run("--sampler", "ones", "--steps", 1)["sampler"] == "ones"


def test_a_plugin_that_cannot_be_imported_is_listed_by_doctor_and_stops_nothing(zoplat: Any, distribution: Any) -> None:
    distribution("zoplat-broken", "import nothing_of_that_name\n")
    [line] = json.loads(zoplat("doctor", "--json").stdout)["failed"]
    for words in ("zoplat_broken", "zoplat-broken 1.0", "No module named 'nothing_of_that_name'", "unaffected"):
        assert words in line
    assert line in zoplat("doctor").stdout
    assert zoplat.run("--steps", 1)["status"] == "done"
    message = zoplat.refused("run", *zoplat.toy, "--estimator", "brokn")
    assert "1 failed to load: `zoplat doctor`" in message


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('no')\n",
        "from zoplat import hookimpl\n@hookimpl\ndef zoplat_nonsense():\n    return {}\n",
        "from zoplat import hookimpl\n@hookimpl\ndef zoplat_samplers():\n    return {'x': 1 / 0}\n",
        "from zoplat import hookimpl\n@hookimpl\ndef zoplat_samplers():\n    return ['x']\n",
        "from zoplat import hookimpl\n@hookimpl\ndef zoplat_samplers():\n    return {'x': int}\n",
        "def broken(:\n",
        "import sys\nsys.exit('no')\n",
    ],
)
def test_a_broken_plugin_does_not_stop_the_others(zoplat: Any, distribution: Any, source: str) -> None:
    distribution("zoplat-broken", source)
    done = zoplat("doctor", "--json")
    assert done.exit_code == 0, repr(done.exception)
    assert len(json.loads(done.stdout)["failed"]) == 1
    assert zoplat("list", "samplers").exit_code == 0
    assert zoplat.run("--steps", 1)["status"] == "done"


def test_two_distributions_with_the_same_name_are_both_named(zoplat: Any, distribution: Any) -> None:
    distribution("zoplat-one", SAMPLER.replace("NAME", "ours"), "1.0")
    distribution("zoplat-other", SAMPLER.replace("NAME", "ours"), "3.1")
    message = zoplat.refused("run", *zoplat.toy, "--sampler", "ours")
    assert "zoplat-one 1.0" in message
    assert "zoplat-other 3.1" in message
    assert "ZOPLAT_NO_PLUGINS" in message
    assert json.loads(zoplat("doctor", "--json").stdout)["clashes"] == [message.removeprefix("Error: ").strip()]
    assert zoplat.run("--steps", 1)["status"] == "done"


def test_a_name_of_zoplat_cannot_be_replaced(zoplat: Any, distribution: Any) -> None:
    distribution("zoplat-taker", SAMPLER.replace("NAME", "gaussian"))
    message = zoplat.refused("run", *zoplat.toy, "--sampler", "gaussian")
    assert "zoplat-taker 1.0" in message
    assert zoplat.run("--sampler", "uniform", "--steps", 1)["sampler"] == "uniform"


def test_a_listing_shows_both_parts_of_a_clash(zoplat: Any, distribution: Any) -> None:
    distribution("zoplat-taker", SAMPLER.replace("NAME", "gaussian"))
    rows = json.loads(zoplat("list", "samplers", "--json").stdout)
    assert [row["distribution"] for row in rows if row["name"] == "gaussian"] == ["zoplat", "zoplat-taker"]


def test_no_plugins_switches_off_every_other_distribution(distribution: Any, tmp_path: Path) -> None:
    site = distribution("zoplat-taker", SAMPLER.replace("NAME", "gaussian"))
    command = [sys.executable, "-m", "zoplat", "run", "--device", "reference", "--sampler", "gaussian", "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "zoplat-taker" in refused.stderr
    environment["ZOPLAT_NO_PLUGINS"] = "1"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "passes", "over_weights", "matrix"),
    [
        ("mezo", 2, 2, 0),
        ("hizoo", 3, 3, 2**22),
        ("adamw", 3, 1, 2**23),
        ("adam", 0, 1, 2**23),
        ("conservative", 3, 3, 0),
    ],
)
def test_show_tells_what_a_step_takes(zoplat: Any, name: str, passes: int, over_weights: int, matrix: int) -> None:
    shown = json.loads(zoplat("show", name, "--json").stdout)["cost"]
    assert [*shown.values()] == [passes, over_weights, matrix, matrix // 2**10]
    assert f"passes over the weights = {over_weights}\n" in zoplat("show", name).stdout


def test_a_cost_that_depends_on_the_model_says_so(zoplat: Any) -> None:
    shown = json.loads(zoplat("show", "block-zo", "--json").stdout)["cost"]
    assert shown["forward passes"] == "depends on the model: 8 with 2 layers, 12 with 4 layers"


METHOD = '''"""Reads: a method that looks at the weights themselves."""

from dataclasses import dataclass

from zoplat import Estimate, Estimator, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class Reads(Estimator):
    """A central difference, scaled by the first weight."""

    sampler: Sampler = Gaussian()
    rule: StepRule = Constant()

    def estimate(self, oracle, state):
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(z, -z)
        yield Estimate((up - down) * oracle.space.blocks[0].array.mean() * z, [up, down], 1.0)


@hookimpl
def zoplat_estimators():
    return {"reads": Reads()}
'''


def test_a_method_whose_cost_can_not_be_measured_is_shown_with_the_reason(zoplat: Any, distribution: Any) -> None:
    distribution("zoplat-reads", METHOD)
    text = zoplat("show", "reads").stdout
    assert "The cost of a step could not be measured: AttributeError: 'PlaceholderArray' object has no" in text
    assert "fields and defaults" in text
    assert [*json.loads(zoplat("show", "reads", "--json").stdout)["cost"]] == ["not measured"]
