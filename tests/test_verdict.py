"""What the engine concludes from a run as a whole."""

import json
from dataclasses import replace
from pathlib import Path

from zoplat.config.layers import resolve
from zoplat.training.callbacks import Callback
from zoplat.training.outlook import Outlook
from zoplat.training.progress import Progress
from zoplat.training.summary import UNDECIDED, Summary, verdict
from zoplat.training.train import train
from zoplat.training.yardstick import Yardstick


def test_a_verdict_needs_twenty_losses() -> None:
    assert verdict([1.0] * 19) == UNDECIDED
    assert verdict([1.0] * 20) == "flat"


def test_means_that_differ_by_more_than_two_standard_errors_are_falling_or_rising() -> None:
    noise = [0.1, -0.1] * 50
    falling = [1 - i / 100 + e for i, e in enumerate(noise)]
    assert verdict(falling) == "falling"
    assert verdict(falling[::-1]) == "rising"
    assert verdict([1 + e for e in noise]) == "flat"


def test_the_overhead_is_the_median_of_the_sampled_steps() -> None:
    yardstick = Yardstick(steps=64)
    assert [step for step in range(12) if yardstick.is_due(step)] == [2, 6, 10]
    assert yardstick.overhead is None
    for seconds in (2.2, 9.0, 2.4):
        yardstick.add(seconds, bare=1.0, passes=2)
    yardstick.add(5.0, bare=1.0, passes=0)
    assert yardstick.overhead == 1.2


def test_a_rising_loss_is_noticed_while_the_run_goes_on(tmp_path: Path) -> None:
    words: list[str] = []

    class Listener(Callback):
        def judged(self, progress: Progress, outlook: Outlook) -> None:
            words.append(outlook.word)

    config = resolve({"device": "reference", "estimator": "mezo", "lr": 3.0, "eps": 0.01, "steps": 60})
    result = train(config, tmp_path / "run", callback=Listener())
    assert (result.summary.verdict, result.summary.outlook) == ("rising", "diverging")
    assert words == ["diverging"]


def test_a_summary_has_the_keys_of_its_file_in_their_order(tmp_path: Path) -> None:
    config = resolve({"device": "reference", "estimator": "mezo", "steps": 2, "limit": 16, "batch_size": 4})
    result = train(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(written) == list(result.summary.to_json())
    assert Summary.from_json(written) == result.summary
    assert result.summary.scores["test"][1] == result.score
    assert "verdict" in written
    assert "dev_after" in written


def test_a_summary_of_an_earlier_version_is_read_without_the_keys_that_it_lacks(tmp_path: Path) -> None:
    summary = Summary.from_json({"status": "done", "test_after": 0.5, "verdict": UNDECIDED, "way": "zero-shot"})
    assert (summary.status, summary.test_after, summary.overhead_ratio) == ("done", 0.5, None)
    assert summary.loss_trend != UNDECIDED
    assert replace(summary, verdict="falling").loss_trend == "falling"
