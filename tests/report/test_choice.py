"""Which method to take, by the numbers: what is best, what can't be distinguished from it, what it costs."""

from collections.abc import Sequence
from typing import Any

import pytest

from zoplat.comparison import statistics
from zoplat.report.pages import Rows
from zoplat.report.study.choice import as_good, candidates, choice_parts
from zoplat.report.study.reading import Study
from zoplat.report.study.runs import ReportedRun
from zoplat.training.summary import Summary

pytest.importorskip("scipy")
MIB = 1 << 20


def runs(label: str, task: str, scores: Sequence[float], above: int = 10, **facts: Any) -> list[ReportedRun]:
    """Runs with these test scores, one a seed, whose steps take so many MiB above inference."""
    table = {"steps": 100, "forward_passes": 200, "seconds_training": 20.0, "metric": "accuracy", **facts}
    peaks = {"step_peak_bytes": {"host": (500 + above) * MIB}, "forward_peak_bytes": {"host": 500 * MIB}}
    phases = [{"phase": "gradient"}] if label == "adamw" else []
    return [
        ReportedRun(
            Summary.from_json({"estimator": label, "task": task, "seed": seed, "test_after": score, **table, **peaks}),
            phases=phases,
        )
        for seed, score in enumerate(scores)
    ]


def study(*groups: list[ReportedRun]) -> Study:
    return Study.of(run for group in groups for run in group)


CLEAR = study(
    runs("mezo", "sst2", [0.80, 0.82, 0.81]),
    runs("lozo", "sst2", [0.81, 0.80, 0.82], above=6),
    runs("es", "sst2", [0.60, 0.61, 0.62], above=2, seconds_training=10.0),
    runs("adamw", "sst2", [0.90, 0.91, 0.92], above=900),
    runs("zero-shot", "sst2", [0.5], steps=0, forward_passes=0),
)


def test_the_best_and_what_may_be_as_good() -> None:
    found = candidates(CLEAR)
    assert [one.label for one in found] == ["adamw", "mezo", "lozo", "es"], "zero-shot is not trained"
    assert [one.label for one in as_good(found)] == ["mezo", "lozo"]
    es, best, second = found[3], found[1], found[2]
    assert es.beaten == statistics.improvement_interval(CLEAR.scores("mezo"), CLEAR.scores("es")) == (1.0, 1.0)
    assert best.beaten is None
    assert second.beaten is not None
    assert second.beaten.low <= 0.5 <= second.beaten.high
    assert (best.above, second.above, es.above) == (10 * MIB, 6 * MIB, 2 * MIB)


def test_it_says_so_in_words_and_numbers() -> None:
    score, memory, time, table, certainty = choice_parts(CLEAR)
    assert score == (
        "By score, at equal passes (200 a run): mezo, 81.0 % over 1 task. By these runs it can't be distinguished from "
        "lozo. 1 other is beaten by it more often than not."
    )
    assert "with 2.0 MiB, es (61.0 %); with 6.0 MiB, lozo (81.0 %); with 900 MiB, adamw (91.0 %)" in str(memory)
    assert "take 2.0 MiB to 10 MiB above inference, adamw, which backpropagates, 900 MiB." in str(memory)
    assert "a pass of es is the shortest, 50 ms; one of mezo, the best by score, takes 100 ms." in str(time)
    assert isinstance(table, Rows)
    rows = {row[0]: row for row in table.body}
    assert [*rows] == ["adamw (backpropagation)", "mezo", "lozo", "es"]
    assert rows["es"][4] == "yes"
    assert (rows["lozo"][4], rows["mezo"][4]) == ("not shown", "–")
    assert "of 3 seeds of one task, 75 % of them hold a mean" in str(certainty)


def test_one_seed_shows_nothing() -> None:
    single = study(runs("mezo", "sst2", [0.9]), runs("es", "sst2", [0.5]))
    assert [one.label for one in as_good(candidates(single))] == ["mezo", "es"]
    parts = choice_parts(single)
    assert "can't be distinguished from es" in str(parts[0])
    assert "no method is shown to be worse" in str(parts[-1])
    assert "No method that backpropagates has scores" in str(parts[1])


def test_unequal_passes_missing_tasks_and_other_bests_are_said() -> None:
    mixed = study(
        runs("mezo", "sst2", [0.9, 0.9]),
        runs("mezo", "rte", [0.5, 0.5]),
        runs("lozo", "sst2", [0.7, 0.7], forward_passes=400),
        runs("lozo", "rte", [0.6, 0.6]),
        runs("es", "sst2", [0.99, 0.99]),
    )
    parts = choice_parts(mixed)
    assert "at passes that were not equal (200 to 300 a run)" in str(parts[0])
    assert "Best by task: sst2, mezo; rte, lozo." in str(parts[0])
    assert parts[-1] == "Left out, for want of scores on some task: es."


def test_there_may_be_nothing_to_choose() -> None:
    only = study(runs("adamw", "sst2", [0.9, 0.8]), runs("zero-shot", "sst2", [0.5], steps=0))
    assert len(choice_parts(only)) == 1
    assert "there is no choice" in str(choice_parts(only)[0])
