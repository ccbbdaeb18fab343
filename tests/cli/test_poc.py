"""zoplat poc: what is run, what is written, exit statuses, and going on where it stopped."""

import html
import json
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat.cli import main
from zoplat.comparison import planned
from zoplat.comparison import poc as proof
from zoplat.comparison.decision import Decision
from zoplat.comparison.poc import backpropagation_study, methods_study

pytest.importorskip("scipy")

TOY = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--max-passes", 12, "--shots", 2)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are made by commands in this process, for they are tiny; the list says which commands."""
    made: list[str] = []

    def output_of(claim: int, running: Any, command: str, *arguments: str) -> dict[str, Any] | str:
        made.append(command)
        done = click.testing.CliRunner().invoke(main, [command, *arguments, "--json"])
        return dict(json.loads(done.stdout)) if done.exit_code == 0 else str(done.stderr.strip().splitlines()[-1])

    monkeypatch.setattr(planned, "_output_of", output_of)
    return made


def test_it_decides_writes_a_page_and_does_nothing_twice(
    zoplat: Any, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    done = zoplat("poc", *TOY, "--price-per-hour", 3, "--json")
    found = json.loads(done.stdout)
    assert (found["verdict"], done.exit_code) == ("can't tell", 2)
    assert in_process == ["eval", "eval", "run", "run"]
    labels = {one["label"]: one for one in found["tried"]}
    assert [*labels] == ["zero-shot", "icl-2", "lozo", "mezo", "adamw"]
    assert "asks the device for gradient" in labels["adamw"]["reason"]
    mezo = labels["mezo"]
    assert mezo["test"]["rows"] == 16
    assert (mezo["passes"], mezo["full_passes"]) == (12, 40_000)
    assert mezo["full_hours"] >= mezo["seconds"] / 12 * 40_000 / 3600
    assert mezo["full_cost"] == pytest.approx(3 * mezo["full_hours"])
    assert found == json.loads(Path("runs/poc/poc.json").read_text())
    page, text = Path("runs/poc/poc.html").read_text(), html.unescape(Path("runs/poc/poc.md").read_text())
    for part in (found["reasons"][0], "asks the device for gradient", "not measured", "zoplat poc --config"):
        assert part in text
    assert "Can&#x27;t tell yet" in page
    assert "<script src" not in page
    assert "inference alone" in page

    again = zoplat("poc", *TOY, "--price-per-hour", 3)
    assert again.exit_code == 2
    assert in_process == ["eval", "eval", "run", "run"]
    assert again.stdout.startswith("Can't tell yet")
    for verdict, status in (("go", 0), ("no-go", 1)):
        decision = Decision(verdict, ("For the exit status.",), "mezo")
        monkeypatch.setattr(proof, "decide", lambda *_, decision=decision: decision)
        done = zoplat("poc", *TOY)
        assert done.exit_code == status
        assert "zoplat run --config runs/poc/methods/mezo-0/config.toml --max-passes 40000" in done.stdout


def test_the_commands_that_it_gives_are_understood(zoplat: Any, in_process: list[str]) -> None:
    pytest.importorskip("matplotlib")
    found = json.loads(zoplat("poc", *TOY, "--estimators", "mezo", "--json").stdout)
    lines = [entry["command"] for entry in found["commands"]]
    [search] = [line for line in lines if "--tune-trials" in line]
    sizes = json.loads(zoplat(*search.split()[1:], "--dry-run", "--json").stdout)
    assert (sizes["methods"]["trials"], sizes["methods"]["runs left"]) == (5, 3)
    [report] = [line for line in lines if line.startswith("zoplat report")]
    assert zoplat(*report.split()[1:]).exit_code == 0


def test_a_dry_run_says_what_it_takes_and_writes_nothing(zoplat: Any) -> None:
    done = zoplat("poc", *TOY, "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert (found["methods"]["runs left"], found["methods"]["forward passes left"]) == (4, 24)
    assert "asks the device for gradient" in found["backpropagation"]["not possible"]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--full-passes", 10, "--full-steps", 5), "not both"),
        (("--estimators", "zero-shot"), "takes methods to try"),
        (("--estimators", "mezzo"), "Did you mean 'mezo'"),
        (("--limit", "none"), "not a valid integer"),
    ],
)
def test_requests_that_can_not_be_met_exit_with_2(zoplat: Any, flags: tuple[Any, ...], words: str) -> None:
    assert words in zoplat.refused("poc", *flags)


def test_several_seeds_are_for_compare(zoplat: Any) -> None:
    Path("several.toml").write_text('device = "reference"\nseeds = [1, 2]\n')
    assert "`zoplat compare` takes several" in zoplat.refused("poc", "--config", "several.toml")


class TestBackpropagation:
    """Settings of the run beside the methods."""

    def config(self, **settings: Any) -> Any:
        study = methods_study(Path("poc"), {"device": "cpu", **settings}, {}, 8)
        [cell] = backpropagation_study(Path("poc"), study).cells
        return cell.config(0)

    def test_it_trains_lora_with_checkpointing_on_the_same_budget(self) -> None:
        config = self.config(model="org/model", limit=7, max_passes=90)
        assert (config.estimator_name, config.estimator.recompute, config.tune.name) == ("adamw", True, "lora")
        assert (config.model, config.limit, config.max_passes) == ("org/model", 7, 90)

    def test_settings_of_the_methods_are_not_its_own(self) -> None:
        usual = self.config(model="org/model")
        options = {"sampler.rank": 4, "evaluate_every": 9}
        config = self.config(model="org/model", lr=1e-9, eps=1e-2, sampler="low-rank", options=options)
        assert config.estimator == usual.estimator
        assert config.evaluate_every == 9

    def test_lora_that_was_chosen_for_the_methods_is_kept(self) -> None:
        assert self.config(tune="lora", options={"tune.rank": 3}).tune.rank == 3

    def test_other_tunings_are_replaced(self) -> None:
        assert self.config(tune="prefix", options={"tune.tokens": 3}).tune.name == "lora"


@pytest.mark.slow
def test_on_the_packaged_model_backpropagation_is_measured_beside_the_methods(zoplat: Any) -> None:
    pytest.importorskip("matplotlib")
    flags = ("--limit", 8, "--batch-size", 4, "--max-passes", 8, "--shots", 1, "--estimators", "lozo", "--json")
    done = zoplat("poc", *flags)
    assert done.exit_code in (0, 1, 2), (done.stderr, done.exception)
    found = json.loads(done.stdout)
    lozo, adamw = found["tried"][-2:]
    assert [lozo["kind"], adamw["kind"]] == ["method", "backpropagation"]
    assert not lozo["reason"]
    assert not adamw["reason"]
    assert lozo["peak"] > 0
    assert adamw["full_hours"] > 0
    assert "LoRA, checkpointing" in Path("runs/poc/poc.html").read_text()


def test_steps_of_a_full_run_are_as_many_passes_as_each_method_takes() -> None:
    study = methods_study(Path("poc"), {"device": "cpu"}, {"estimators": ("mezo", "adamw")}, 0)
    [_, mezo, adamw] = (cell.config(0) for cell in study.cells)
    plan = proof.Plan(full_steps=10)
    assert (plan.passes(mezo), plan.passes(adamw)) == (20, 30)
    assert proof.Plan(full_passes=70).passes(mezo) == 70
