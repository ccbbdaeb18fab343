"""Go or no-go from what short runs found, on rows as they come out of run directories."""

from dataclasses import replace

import pytest

from zoplat.comparison.decision import GAIN, Tried, decide
from zoplat.comparison.statistics import paired_test

pytest.importorskip("scipy")

ROWS = 100
ZERO_SHOT = Tried("zero-shot", "prompt", score=0.5)
FEW_SHOT = Tried("icl-8", "prompt", score=0.6)


def trained(after: float, label: str = "lozo", outlook: str = "learning", **own: object) -> Tried:
    """A method that had half of the rows right before, and of these none wrong afterwards unless it got worse."""
    before = [float(row < ROWS // 2) for row in range(ROWS)]
    right = [float(row < round(after * ROWS)) for row in range(ROWS)]
    made = Tried(
        label,
        "method",
        score=after,
        before=0.5,
        test=paired_test([right], [before]),
        outlook=outlook,
        passes=600,
        seconds=60.0,
        peak=200,
        inference=190,
        full_passes=40_000,
        full_hours=1.5,
    )
    return replace(made, **own)


def backpropagation(**own: object) -> Tried:
    return replace(trained(0.9, "adamw", peak=400), kind="backpropagation", **own)


class TestGo:
    def test_a_clear_gain_is_go_with_the_best_method(self) -> None:
        found = decide([ZERO_SHOT, FEW_SHOT, trained(0.7), trained(0.8, "mezo", full_cost=4.5)])
        assert (found.verdict, found.best) == ("go", "mezo")
        assert "from 50.0 % to 80.0 %" in found.reasons[0]
        assert "40,000 passes takes about 1.5 h and costs 4.50" in found.reasons[0]
        assert len(found.reasons) == 5

    def test_backpropagation_that_needs_more_memory_does_not_stop_it(self) -> None:
        assert decide([ZERO_SHOT, trained(0.8), backpropagation()]).verdict == "go"

    def test_backpropagation_that_fails_is_a_reason_beside_it(self) -> None:
        found = decide([ZERO_SHOT, trained(0.8), Tried("adamw", "backpropagation", "CUDA out of memory")])
        assert found.verdict == "go"
        assert "adamw failed: CUDA out of memory" in found.reasons

    def test_one_method_is_enough(self) -> None:
        found = decide([ZERO_SHOT, trained(0.8), Tried("mezo", "method", "it diverged")])
        assert (found.verdict, found.best) == ("go", "lozo")


class TestNoGo:
    def test_backpropagation_that_is_better_in_all(self) -> None:
        found = decide([ZERO_SHOT, trained(0.8), backpropagation(peak=150)])
        assert (found.verdict, found.best) == ("no-go", "adamw")

    def test_it_must_be_better_in_time_too(self) -> None:
        assert decide([ZERO_SHOT, trained(0.8), backpropagation(peak=150, full_hours=2.0)]).verdict == "go"

    def test_a_full_run_that_takes_too_long(self) -> None:
        assert decide([ZERO_SHOT, trained(0.8)], max_hours=1.5).verdict == "go"
        found = decide([ZERO_SHOT, trained(0.8)], max_hours=1.0)
        assert found.verdict == "no-go"
        assert "takes 1.5 h, and 1 h are allowed" in found.reasons[0]

    @pytest.mark.parametrize("outlook", ["not learning", "diverging"])
    def test_nothing_learns_after_a_search(self, outlook: str) -> None:
        found = decide([ZERO_SHOT, trained(0.5, outlook=outlook, trials=5), trained(0.3, "mezo", trials=5)])
        assert found.verdict == "no-go"
        assert "search" in found.reasons[0]

    def test_no_method_fits_into_memory(self) -> None:
        killed = "It was killed 3 times, the last time by signal 9; was memory short?"
        found = decide([ZERO_SHOT, Tried("lozo", "method", killed), Tried("mezo", "method", "CUDA out of memory")])
        assert found.verdict == "no-go"
        assert "memory" in found.reasons[0]


class TestCantTell:
    def test_a_gain_that_chance_gives_too(self) -> None:
        found = decide([ZERO_SHOT, trained(0.53)])
        assert found.verdict == "can't tell"
        assert "100 test rows" in found.reasons[0]

    def test_p_values_are_adjusted_for_the_number_of_methods(self) -> None:
        one = trained(0.56)
        assert one.test is not None
        assert 0.025 < one.test.p < 0.05
        assert decide([ZERO_SHOT, one]).verdict == "go"
        assert decide([ZERO_SHOT, one, trained(0.5, "mezo")]).verdict == "can't tell"
        assert decide([ZERO_SHOT, trained(0.57), trained(0.5, "mezo")]).verdict == "go"

    def test_a_gain_that_is_too_small(self) -> None:
        small = replace(trained(0.7), score=0.5 + GAIN / 2)
        assert decide([ZERO_SHOT, small]).verdict == "can't tell"

    def test_a_gain_over_a_worse_start_than_zero_shot(self) -> None:
        assert decide([replace(ZERO_SHOT, score=0.8), trained(0.8)]).verdict == "can't tell"

    def test_solved_examples_that_do_as_well(self) -> None:
        found = decide([ZERO_SHOT, replace(FEW_SHOT, score=0.8), trained(0.8)])
        assert found.verdict == "can't tell"
        assert "icl-8 scores 80.0 %" in found.reasons[0]

    @pytest.mark.parametrize("outlook", ["not learning", "diverging"])
    def test_nothing_learns_and_nothing_was_searched(self, outlook: str) -> None:
        found = decide([ZERO_SHOT, trained(0.4, outlook=outlook)])
        assert found.verdict == "can't tell"
        assert "--tune-trials" in found.reasons[0]

    def test_methods_failed_with_settings_that_were_not_searched(self) -> None:
        assert decide([ZERO_SHOT, Tried("lozo", "method", "the scores are not numbers")]).verdict == "can't tell"
        assert decide([ZERO_SHOT, Tried("lozo", "method", "not numbers", trials=2)]).verdict == "no-go"

    def test_everything_failed(self) -> None:
        found = decide([Tried(name, "prompt", "no such model") for name in ("zero-shot", "icl-8")])
        assert found.verdict == "can't tell"
        assert found.reasons[0].startswith("Nothing ran")

    def test_no_predictions_are_there(self) -> None:
        assert "No predictions" in decide([ZERO_SHOT, trained(0.9, test=None)]).reasons[0]
