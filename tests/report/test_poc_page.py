"""The page of a proof of concept, for who decides: what stands on it, and that it fits a telephone."""

from pathlib import Path

import pytest

from zoplat.comparison.decision import Tried, decide
from zoplat.comparison.poc import Plan, Poc
from zoplat.report.poc import as_text, write

from .test_in_a_browser import CHROMIUM, chromium, measured


@pytest.fixture
def poc(tmp_path: Path) -> Poc:
    pytest.importorskip("scipy")
    from zoplat.comparison.statistics import paired_test

    test = paired_test([[1.0] * 20], [[0.0] * 12 + [1.0] * 8])
    tried = (
        Tried("zero-shot", "prompt", score=0.4),
        Tried(
            "lozo",
            "method",
            score=1.0,
            before=0.4,
            test=test,
            outlook="learning",
            passes=600,
            seconds=90.0,
            full_passes=40_000,
            full_hours=1.67,
            full_cost=5.0,
            directory=str(tmp_path / "methods" / "lozo-0"),
        ),
        Tried("adamw", "backpropagation", "it <b>broke</b>: " + "a_long_name_without_a_place_to_break_it" * 4),
    )
    line = "zoplat run --config " + "folder/" * 30 + "config.toml"
    facts = {"model": "org/model", "task": "sst2"}
    return Poc(tmp_path, Plan(price=3.0), facts, tried, decide(tried), (("The full run:", line),))


def test_it_says_what_was_decided_and_why(poc: Poc) -> None:
    page, text, _ = (path.read_text() for path in write(poc))
    for part in ("Go: fine-tuning by forward passes works here", "from 40.0 % to 100.0 %", "costs 5.00", "40,000"):
        assert part in page
        assert part in text
        assert part in as_text(poc)
    assert "it &lt;b&gt;broke&lt;/b&gt;" in page
    assert "<b>broke" not in page + text
    assert "At 3 an hour. Energy: not measured: no counter" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_it_fits_a_telephone_without_a_console_message(poc: Poc, tmp_path: Path) -> None:
    page = write(poc)[0]
    assert chromium(page)[1] == []
    found = measured(page, tmp_path, width=400)
    assert (found["scroll"] <= 400, found["wide"]) == (True, [])
