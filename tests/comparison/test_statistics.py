"""Statistics of comparisons against references that are written out: sums and loops, exact fractions, all resamples.

The references know nothing of scipy: they are the published definitions, term by term.
"""

import math
import random
import sys
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from zoplat.comparison import statistics
from zoplat.comparison.statistics import COVERAGE, RESAMPLES, SEED
from zoplat.core.errors import ZoplatError

stats = pytest.importorskip("scipy.stats")

OURS = {"a": [0.715, 0.74, 0.69, 0.74], "b": [0.5, 0.53125, 0.55, 0.515], "c": [0.9, 0.91, 0.88, 0.925]}
THEIRS = {"a": [0.70, 0.74, 0.68, 0.71], "b": [0.53125, 0.52, 0.60, 0.51], "c": [0.87, 0.91, 0.90, 0.86]}
TIGHT = {"rel": 0, "abs": 1e-12}


def exact(values: Any) -> list[Fraction]:
    return [Fraction(value) for value in values]


def reference_mean(*tasks: Any) -> float:
    return float(sum(sum(exact(task)) / len(task) for task in tasks) / len(tasks))


def reference_iqm(*tasks: Any) -> float:
    values = sorted(value for task in tasks for value in exact(task))
    cut = len(values) // 4
    middle = values[cut : len(values) - cut]
    return float(sum(middle) / len(middle))


def reference_improvement(*tasks: Any) -> float:
    ours, theirs, total = tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :], Fraction(0)
    for one, other in zip(ours, theirs, strict=True):
        pairs = [(x, y) for x in one for y in other]
        total += Fraction(sum(2 * (x > y) + (x == y) for x, y in pairs), 2 * len(pairs))
    return float(total / len(ours))


def reference_interval(statistic: Any, *tasks: Any) -> tuple[float, float]:
    """Draw seeds within each task with the stated generator, one resample after the other; 2.5 % and 97.5 % points."""
    generator = np.random.default_rng(SEED)
    drawn = [generator.integers(0, len(task), (RESAMPLES, len(task))).tolist() for task in tasks]
    found = sorted(
        statistic(*([task[i] for i in places] for task, places in zip(tasks, rows, strict=True)))
        for rows in zip(*drawn, strict=True)
    )

    def point(share: float) -> float:
        place = share * (len(found) - 1)
        low = math.floor(place)
        return float(found[low] + (place - low) * (found[min(low + 1, len(found) - 1)] - found[low]))

    return point(0.025), point(0.975)


def test_means_and_the_probability_of_improvement_are_those_of_the_definitions() -> None:
    assert statistics.mean(OURS) == pytest.approx(reference_mean(*OURS.values()), **TIGHT)
    assert statistics.interquartile_mean(OURS) == pytest.approx(reference_iqm(*OURS.values()), **TIGHT)
    found = statistics.probability_of_improvement(OURS, dict(reversed(THEIRS.items())))
    assert found == pytest.approx(reference_improvement(*OURS.values(), *THEIRS.values()), **TIGHT)


@pytest.mark.parametrize("number", range(20))
def test_on_random_scores_too_with_ties_and_unequal_numbers_of_seeds(number: int) -> None:
    draw = random.Random(number)
    ours, theirs = (
        {task: [draw.randrange(12) / 12 for _ in range(draw.randint(1, 6))] for task in "abc"} for _ in range(2)
    )
    assert statistics.mean(ours) == pytest.approx(reference_mean(*ours.values()), **TIGHT)
    assert statistics.interquartile_mean(ours) == pytest.approx(reference_iqm(*ours.values()), **TIGHT)
    found, back = (statistics.probability_of_improvement(*pair) for pair in ((ours, theirs), (theirs, ours)))
    assert found == pytest.approx(reference_improvement(*ours.values(), *theirs.values()), **TIGHT)
    assert found + back == pytest.approx(1, **TIGHT)


def test_the_published_examples_of_rliable_have_the_published_numbers() -> None:
    """The examples in the tests of google-research/rliable, the authors' library for arXiv:2108.13264.

    tests/rliable/metrics_test.py has numbers for means, interquartile means and the probability of improvement. For
    intervals it publishes none, as its generator is not seeded: tests/library_test.py has scores whose interval must
    hold the estimate strictly inside. Its README and its notebook have figures, whose scores are not in the repository.
    """
    x, y = {"a": [1, 2, 1, 2], "b": [2, 2, 1, 1]}, {"a": [1, 2, 3], "b": [1, 2, 3]}
    assert (statistics.mean(x), statistics.interquartile_mean(x)) == (1.5, 1.5)
    assert (statistics.mean(y), statistics.interquartile_mean(y)) == (2, 2)
    assert statistics.probability_of_improvement(x, y) == pytest.approx(1 / 3, **TIGHT)
    runs = np.arange(5 * 16).reshape(5, 16)
    scores, flipped = (
        {str(task): one[:, task].tolist() for task in range(16)} for one in (runs, np.flip(runs, axis=0))
    )
    for found, estimate in (
        (statistics.mean_interval(scores), statistics.mean(scores)),
        (statistics.interquartile_interval(scores), statistics.interquartile_mean(scores)),
        (statistics.improvement_interval(scores, flipped), statistics.probability_of_improvement(scores, flipped)),
    ):
        assert found is not None
        assert found.low < estimate < found.high


def test_intervals_are_those_of_resamples_drawn_one_by_one() -> None:
    ours, theirs = [*OURS.values()], [*THEIRS.values()]
    for found, reference in (
        (statistics.mean_interval(OURS), reference_interval(reference_mean, *ours)),
        (statistics.interquartile_interval(OURS), reference_interval(reference_iqm, *ours)),
        (statistics.improvement_interval(OURS, THEIRS), reference_interval(reference_improvement, *ours, *theirs)),
    ):
        assert found == pytest.approx(reference, **TIGHT)


def test_drawn_intervals_are_near_those_of_all_resamples() -> None:
    """Two tasks of three seeds have 27 · 27 resamples, all alike likely."""
    scores = {"a": [0.6, 0.7, 0.75], "b": [0.2, 0.3, 0.25]}
    every = [reference_mean(*pair) for pair in product(*(product(task, repeat=3) for task in scores.values()))]
    found = statistics.mean_interval(scores)
    assert found == pytest.approx(np.percentile(every, [2.5, 97.5]), abs=0.01)


def test_the_same_scores_give_the_same_interval_whatever_was_drawn_before() -> None:
    first = statistics.mean_interval(OURS)
    np.random.default_rng(SEED).random(99)
    assert statistics.mean_interval(OURS) == first


def test_of_one_seed_there_is_no_interval() -> None:
    scores = {"a": [0.5, 0.6], "b": [0.5]}
    assert statistics.mean_interval(scores) is None
    assert statistics.student_interval(scores) is None
    assert statistics.profile_band(scores, [0.5]) is None


def test_students_interval_of_one_task_is_that_of_the_textbook() -> None:
    """Mean 5, standard deviation √2.5, 5 values, t of 4 degrees of freedom = 2.776445."""
    found = statistics.student_interval({"a": [3.0, 4.0, 5.0, 6.0, 7.0]})
    half = 2.7764451051977987 * math.sqrt(2.5 / 5)
    assert found == pytest.approx((5 - half, 5 + half), abs=1e-9)
    assert statistics.student_interval({"a": [0.5, 0.5]}) == (0.5, 0.5)


def coverage(interval: Any, seeds: int, tasks: int, trials: int) -> float:
    """Share of intervals that hold the mean of normal scores."""
    generator, held = np.random.default_rng(7), 0
    for _ in range(trials):
        scores = {str(task): (task + generator.normal(size=seeds)).tolist() for task in range(tasks)}
        found = interval(scores)
        held += found.low <= (tasks - 1) / 2 <= found.high
    return held / trials


@pytest.mark.parametrize(("seeds", "tasks"), [(2, 1), (3, 1), (5, 1), (3, 6), (10, 2)])
def test_students_intervals_cover_at_the_stated_rate(seeds: int, tasks: int) -> None:
    """Of 2000 trials, 95 % have a standard error of 0.5 %. Welch's approximation covers a little more."""
    assert coverage(statistics.student_interval, seeds, tasks, 2000) == pytest.approx(0.95, abs=0.016)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [*COVERAGE])
def test_bootstrap_intervals_of_few_seeds_cover_what_the_table_says(seeds: int) -> None:
    found = coverage(lambda scores: statistics.mean_interval(scores, resamples=1000), seeds, 1, 2000)
    assert found == pytest.approx(COVERAGE[seeds], abs=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [statistics.mean_interval, statistics.interquartile_interval])
def test_bootstrap_intervals_of_many_seeds_cover_at_the_stated_rate(interval: Any) -> None:
    """Of 600 trials, 95 % have a standard error of 0.9 %. The tasks are alike: both aggregates are near their mean."""
    generator, held = np.random.default_rng(8), 0
    for _ in range(600):
        found = interval({str(task): generator.normal(size=40).tolist() for task in range(4)}, resamples=1000)
        held += found.low <= 0 <= found.high
    assert held / 600 == pytest.approx(0.95, abs=0.027)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ZoplatError, match=r"pip install 'zoplat\[eval\]'"):
        statistics.interquartile_mean(OURS)


# --- paired tests


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (8, 2), (3, 3), (20, 9)])
def test_mcnemar_is_the_exact_binomial_sum(won: int, lost: int) -> None:
    one = [1.0] * won + [0.0] * lost + [1.0] * 10 + [0.0] * 4
    other = [0.0] * won + [1.0] * lost + [1.0] * 10 + [0.0] * 4
    n, small = won + lost, min(won, lost)
    reference = min(Fraction(1), Fraction(2 * sum(math.comb(n, k) for k in range(small + 1)), 2**n))
    test = statistics.paired_test([one], [other])
    assert (test.name, test.won, test.lost, test.rows) == ("McNemar, exact", won, lost, n + 14)
    assert test.p == pytest.approx(float(reference), **TIGHT)
    assert test.difference == pytest.approx((won - lost) / (n + 14), **TIGHT)
    assert test.interval.low <= test.difference <= test.interval.high


def test_of_several_seeds_the_signs_of_all_differences_are_flipped() -> None:
    one = [[1, 1, 1, 0, 1, 1, 0], [1, 0, 1, 0, 1, 1, 1]]
    other = [[0, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0]]
    apart = [Fraction(sum(a) - sum(b), 2) for a, b in zip(zip(*one), zip(*other), strict=True)]  # noqa: B905
    flips = [abs(sum(s * d for s, d in zip(signs, apart, strict=True))) for signs in product((1, -1), repeat=7)]
    test = statistics.paired_test(one, other)
    assert test.name == "sign flips"
    assert test.p == pytest.approx(sum(value >= abs(sum(apart)) for value in flips) / len(flips), **TIGHT)
    assert test.difference == pytest.approx(float(sum(apart) / 7), **TIGHT)


def test_other_rows_are_refused() -> None:
    with pytest.raises(ZoplatError, match="same rows"):
        statistics.paired_test([[1, 0]], [[1, 0, 1]])
    with pytest.raises(ZoplatError, match="the baseline has"):
        statistics.probability_of_improvement(OURS, {"a": [1.0]})
    with pytest.raises(ZoplatError, match="there is none"):
        statistics.mean({})


def test_paired_tests_err_as_often_as_stated_where_nothing_differs() -> None:
    """Exact tests err at most as often as stated: of 400 pairs of equal methods fewer than 5 % + 3 standard errors."""
    generator = np.random.default_rng(3)
    found = [statistics.paired_test(*generator.integers(0, 2, (2, 1, 60)).astype(float)).p for _ in range(400)]
    assert sum(p < 0.05 for p in found) / 400 < 0.083


def test_adjusted_p_values_are_holms() -> None:
    assert statistics.adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.adjusted([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.adjusted([]) == []


# --- profiles


def test_a_profile_is_the_share_of_runs_above_each_threshold() -> None:
    levels = [0.0, 0.5, 0.53125, 0.74, 0.9, 1.0]
    reference = [
        float(sum(Fraction(sum(x > level for x in task), len(task)) for task in OURS.values()) / 3) for level in levels
    ]
    assert statistics.profile(OURS, levels) == pytest.approx(reference, **TIGHT)
    band = statistics.profile_band(OURS, levels)
    assert band
    for level, share, low, high in zip(levels, reference, *band, strict=True):
        alone = statistics.interval(
            lambda *tasks: sum(t.mean(axis=-1) for t in tasks) / 3,
            [np.asarray([float(x > level) for x in task]) for task in OURS.values()],
        )
        assert (low, high) == pytest.approx(alone, **TIGHT)
        assert low <= share <= high
