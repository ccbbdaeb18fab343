"""What steps of several ranks are predicted to take, from the formulas that can be worked out by hand."""

import numpy as np
import pytest

from bench.results import FOLDER, read
from bench.scaling_model import PATTERNS, Line, Work, fitted, step_seconds
from bench.scaling_page import places, predicted


def test_the_work_of_one_rank_is_found_from_its_steps() -> None:
    work = Work(query=0.01, point=0.002, row=0.03)
    cases = [(2, 4, 8), (2, 4, 4), (2, 4, 2), (2, 2, 8)]
    found = fitted([(*case, work.seconds(*case)) for case in cases])
    assert [found.query, found.point, found.row] == pytest.approx([0.01, 0.002, 0.03])


@pytest.mark.parametrize(
    ("parallel", "size", "expected"),
    [("data", 4, 2 + 4 * (2 + 2 * 3)), ("queries", 4, 2 + 2 + 8 * 3), ("queries", 3, 2 + 2 * (2 + 8 * 3))],
)
def test_ranks_share_rows_or_points(parallel: str, size: int, expected: float) -> None:
    assert Work(query=1, point=2, row=3).shared(parallel, size, queries=2, points=4, rows=8) == expected


@pytest.mark.parametrize(("pattern", "ways"), [("mesh", 1), ("star", 2), ("ring", 2 * 7)])
def test_a_step_without_losses_is_work_ways_and_what_messages_cost(pattern: str, ways: int) -> None:
    line = Line(delay=0.05, bandwidth=1000, message=10, software=0.001, peer=0.002)
    expected = 0.2 + ways * 0.05 + 0.001 + 6 * 0.002 + 7 * 10 / 1000
    assert step_seconds(0.2, 8, line, pattern, steps=50) == pytest.approx(expected)
    assert step_seconds(0.2, 1, line, pattern) == 0.2


def test_a_lost_packet_costs_what_tcp_waits_for() -> None:
    line = Line(delay=0.05, loss=0.01)
    late = line.travel(np.random.default_rng(0), (1_000_000,)) - line.delay
    round_trip = 2 * 0.05 + 0.04
    assert late.mean() == pytest.approx(0.01 * 1.25 * round_trip + 0.01 * 2 * round_trip, rel=0.1)
    assert np.mean(late > 0) == pytest.approx(0.0199, rel=0.05)


def test_ranks_that_differ_wait_for_the_slowest() -> None:
    assert step_seconds(1.0, 64, Line(), spread=0.1, steps=200) == pytest.approx(1.26, rel=0.03)
    losses = {name: step_seconds(1.0, 8, Line(0.05, 0.05), name) for name in PATTERNS}
    assert all(seconds > step_seconds(1.0, 8, Line(0.05), name) for name, seconds in losses.items())


def test_predictions_are_within_15_percent_of_the_measured_steps() -> None:
    found = list(predicted(read(FOLDER / "scaling.json")["rows"]))
    assert {row["size"] for row, _ in found} == {2, 4}
    off = {row["step"]: model / row["mean"] - 1 for row, model in found}
    assert {step: share for step, share in off.items() if abs(share) > 0.15} == {}


def test_the_page_projects_to_1024_ranks() -> None:
    assert "| 1,024 |" in places()["scaling-far"]
