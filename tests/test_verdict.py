"""What the engine says of a run as a whole."""

from pathlib import Path

from zoplat.config.layers import resolve
from zoplat.training.callbacks import Callback
from zoplat.training.train import train
from zoplat.training.verdict import overhead, verdict


def test_a_verdict_needs_twenty_losses() -> None:
    assert verdict([1.0] * 19) == "too short to say"
    assert verdict([1.0] * 20) == "flat"


def test_losses_that_part_by_more_than_two_standard_errors_fall_or_rise() -> None:
    noise = [0.1, -0.1] * 50
    falling = [1 - i / 100 + e for i, e in enumerate(noise)]
    assert verdict(falling) == "falling"
    assert verdict(falling[::-1]) == "rising"
    assert verdict([1 + e for e in noise]) == "flat"


def test_the_overhead_is_the_median_of_the_sampled_steps() -> None:
    assert overhead([(2.2, 1.0, 2), (9.0, 1.0, 2), (2.4, 1.0, 2)]) == 1.2
    assert overhead([]) is None


def test_a_rising_loss_is_noticed_while_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Callback):
        def warned(self, text: str) -> None:
            said.append(text)

    config = resolve({"device": "reference", "estimator": "mezo", "lr": 3.0, "eps": 0.01, "steps": 60})
    result = train(config, tmp_path / "run", observer=Listener())
    assert result.summary["verdict"] == "rising"
    assert said
    assert "rising" in said[0]
