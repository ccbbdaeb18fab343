"""Curves of scores: targets, budgets, bands, and the front of score and memory."""

import pytest

from zoplat.comparison.curves import band, curve, pareto, reached, score_at

RUN = [(0, 0.5), (100, 0.6), (200, 0.58), (300, 0.7)]


def test_a_curve_has_the_records_of_one_split_in_order() -> None:
    records = [
        {"step": 2, "passes": 8, "split": "dev", "score": 0.75, "seconds_training": 1.5},
        {"step": 0, "passes": 0, "split": "dev", "score": 0.5},
        {"step": 2, "passes": 8, "split": "test", "score": 0.25, "seconds_training": 1.5},
    ]
    assert curve(records) == [(0, 0.5), (8, 0.75)]
    assert curve(records, "seconds") == [(1.5, 0.75)], "an earlier version wrote no seconds"
    assert curve(records, split="test") == [(8, 0.25)]


@pytest.mark.parametrize(("budget", "score"), [(0, 0.5), (99, 0.5), (100, 0.6), (250, 0.58), (1e9, 0.7), (-1, None)])
def test_a_budget_buys_the_newest_score_before_it(budget: float, score: float | None) -> None:
    assert score_at(RUN, budget) == score


@pytest.mark.parametrize(("target", "passes"), [(0.4, 0), (0.6, 100), (0.61, 300), (0.8, None)])
def test_a_target_is_reached_at_the_first_score_that_has_it(target: float, passes: float | None) -> None:
    assert reached(RUN, target) == passes


def test_a_band_is_mean_and_range_where_all_curves_are_known() -> None:
    found = band([RUN, [(0, 0.4), (150, 0.8), (250, 0.9)]])
    assert found.x == [0, 100, 150, 200, 250]
    assert found.low == [0.4, 0.4, 0.6, 0.58, 0.58]
    assert found.high == [0.5, 0.6, 0.8, 0.8, 0.9]
    assert found.middle == pytest.approx([0.45, 0.5, 0.7, 0.69, 0.74])
    assert band([RUN]).middle == [score for _, score in RUN]


def test_runs_with_as_many_evaluations_are_taken_evaluation_by_evaluation() -> None:
    found = band([[(0, 0.5), (1.0, 0.6), (2.0, 0.7)], [(0, 0.5), (3.0, 0.8), (4.0, 0.7)]])
    assert found.x == [0, 2.0, 3.0]
    assert (found.low, found.high) == ([0.5, 0.6, 0.7], [0.5, 0.8, 0.7])
    assert found.middle == pytest.approx([0.5, 0.7, 0.7])


def test_the_front_has_whoever_is_not_beaten() -> None:
    points = {
        "a": (0.7, 10.0),
        "b": (0.8, 20.0),
        "c": (0.75, 20.0),
        "d": (0.8, 30.0),
        "e": (0.6, 5.0),
        "twin": (0.7, 10.0),
    }
    assert pareto(points) == ["e", "a", "twin", "b"]
    assert pareto({}) == []
