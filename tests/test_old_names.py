"""Configs, journals and options of earlier versions are read under the names of now."""

from pathlib import Path
from typing import Any

import pytest

from zoplat import ZoplatError
from zoplat.config.layers import build, resolve
from zoplat.training.journal import Journal, JournalWriter

STRATEGIES = [("auto", "auto"), ("walk", "sequential"), ("batch", "batched"), ("stream", "streaming")]


@pytest.mark.parametrize(("old", "now"), STRATEGIES)
def test_a_config_may_call_the_strategy_by_its_old_name(old: str, now: str) -> None:
    config: Any = build([{"device": {"name": "cpu", "road": old}}])
    assert config.device.strategy == now
    assert "road" not in config.table()["device"], "what is written has the name of now"


def test_an_option_may_call_the_strategy_by_its_old_name() -> None:
    config: Any = resolve({"options": {"device.road": "walk"}})
    assert config.device.strategy == "sequential"


def test_a_wrong_value_under_the_old_name_is_named_with_the_new_one() -> None:
    with pytest.raises(ZoplatError, match="strategy"):
        resolve({"options": {"device.road": "fly"}})


def test_an_old_name_is_no_name_of_other_parts() -> None:
    with pytest.raises(ZoplatError, match="road"):
        resolve({"options": {"estimator.road": "walk"}})


@pytest.mark.parametrize(("old", "now"), STRATEGIES[1:])
def test_the_header_of_an_old_journal_is_read_under_the_names_of_now(old: str, now: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    JournalWriter(path, {"seed": 3, "road": old}).close()
    header = Journal.read(path).header
    assert (header["strategy"], header["seed"]) == (now, 3)
    assert "road" not in header
