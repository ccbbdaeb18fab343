"""Presets: all of them can be run, their grids name existing fields, and their sources are in the bibliography."""

import re
from pathlib import Path
from typing import Any

import pytest

from zoplat import ZoplatError, read_presets
from zoplat.config.layers import resolve
from zoplat.registry import catalogue

PRESETS = catalogue().names("preset")
ESTIMATORS = [e for e in catalogue() if e.kind == "estimator" and e.distribution == "zoplat"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_a_run_with_its_settings(name: str) -> None:
    preset = catalogue().entry("preset", name).value
    config = resolve({"preset": name, "device": "cpu"})
    assert config.estimator_name == preset.settings["estimator"]["name"]
    assert config.tune.targets == "", "the recipe of the packaged model is not mixed in"
    for field in ("steps", "batch_size"):
        assert getattr(config, field) == preset.settings[field]


@pytest.mark.parametrize("name", [n for n in PRESETS if catalogue().entry("preset", n).value.grid])
def test_every_value_of_a_grid_can_be_set(name: str) -> None:
    for path, values in catalogue().entry("preset", name).value.grid.items():
        for value in values:
            given: dict[str, Any] = {path: value} if path in ("lr", "eps") else {"options": {path: value}}
            resolve({"preset": name, "device": "cpu", **given})


def test_flags_win_over_a_preset_and_another_estimator_drops_its_settings() -> None:
    preset = {"preset": "mezo-paper/roberta-large", "device": "cpu"}
    assert resolve({**preset, "steps": 5, "lr": 0.25}).estimator.rule.lr == 0.25
    assert (
        resolve({**preset, "estimator": "lozo"}).estimator == resolve({"estimator": "lozo", "tune": "full"}).estimator
    )
    assert resolve(preset) == resolve(preset), "a preset is not used up"


def test_an_unknown_preset_suggests_the_closest_one() -> None:
    with pytest.raises(ZoplatError, match=r"Unknown preset 'mezo-paper/roberta'.*Did you mean 'mezo-paper/roberta-l"):
        resolve({"preset": "mezo-paper/roberta", "device": "cpu"})


@pytest.mark.parametrize("text", ["[a]\nabout = 'x'\n", "source = 'x'\n[a]\nsteps = 1\n"])
def test_a_preset_without_source_or_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "paper.toml").write_text(text)
    with pytest.raises(ZoplatError, match=r"paper.toml, \[a\]: a preset needs"):
        read_presets(tmp_path)


@pytest.mark.parametrize("entry", ESTIMATORS, ids=lambda entry: entry.name)
def test_every_publication_that_a_box_names_is_in_the_bibliography(entry: Any) -> None:
    named = set(re.findall(r"arXiv:([0-9.]+[0-9])", entry.box))
    assert named, f"the box of {entry.name} names no publication"
    found = {m for text in entry.citations for m in re.findall(r"eprint\s*=\s*\{([0-9.]+)\}", text)}
    assert named == found, f"not in references.bib: {named - found}"


def test_the_rate_of_a_rule_with_a_schedule_is_that_of_the_schedule() -> None:
    config = resolve({"estimator": "zo-adam", "device": "cpu", "lr": 0.5, "options": {"rule.schedule": "linear"}})
    assert (type(config.estimator.rule.schedule).__name__, config.estimator.rule.schedule.lr) == ("Linear", 0.5)
    again = resolve({"config": config.table()})
    assert again.table() == config.table()
