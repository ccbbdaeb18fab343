"""Statistics of a comparison: aggregates over seeds and tasks with intervals, and tests on the same rows.

The definitions are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021, arXiv:2108.13264: the interquartile mean, the probability of improvement, performance profiles, and
bootstrap intervals that draw seeds anew within each task and never tasks. The random numbers of each function come
from a generator of its own with the fixed seed `SEED`, so the same scores always give the same interval.

Scores of a method are a mapping: task → the score of each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoplat.core.errors import ZoplatError

Scores = Mapping[str, Sequence[float]]
"""Task → the score of each seed."""
LEVEL = 0.95
"""Share of intervals that are meant to hold the true value."""
RESAMPLES = 5000
SEED = 0
"""Of the generators."""
COVERAGE = {2: 0.50, 3: 0.75, 4: 0.80, 5: 0.85, 10: 0.90, 20: 0.93}
"""Seeds of one task → the share of 95 % bootstrap intervals of a mean that hold it, for scores of a normal law.

Measured by tests/comparison/test_statistics.py; of `student_interval` 95 % do.
"""


class Interval(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same rows.

    Attributes:
        rows: how many.
        won, lost: rows on which the first method is right more often than the other, and less often.
        difference: mean of what the first scores above the other on a row, in [−1, 1].
        interval: of the difference, by drawing rows anew.
        p: how often a difference at least as large comes about where neither method is better.
        name: of the test behind `p`.
    """

    rows: int
    won: int
    lost: int
    difference: float
    interval: Interval
    p: float
    name: str


def mean(scores: Scores) -> float:
    """The mean over tasks of the mean over seeds."""
    return float(_mean(*_arrays(scores)))


def interquartile_mean(scores: Scores) -> float:
    """The mean of the middle half of all scores: of n, the lowest and the highest ⌊n/4⌋ are left out."""
    return float(_interquartile_mean(*_arrays(scores)))


def probability_of_improvement(scores: Scores, baseline: Scores) -> float:
    """How likely a run of the method beats a run of the baseline on a task, ties counted half; mean over tasks.

    Raises:
        ZoplatError: the tasks are not the same.
    """
    return float(_improvement(*_paired(scores, baseline)))


def mean_interval(scores: Scores, **choices: Any) -> Interval | None:
    """Interval of `mean`; see `interval`."""
    return interval(_mean, _arrays(scores), **choices)


def student_interval(scores: Scores, level: float = LEVEL) -> Interval | None:
    """Interval of `mean` by Student's law, which keeps its level with few seeds where scores are close to normal.

    Degrees of freedom of several tasks are those of Welch and Satterthwaite. None with a single seed of a task.
    """
    strata = _arrays(scores)
    if any(values.size < 2 for values in strata):
        return None
    variances = [values.var(ddof=1) / values.size for values in strata]
    middle, total = float(_mean(*strata)), sum(variances)
    if not total:
        return Interval(middle, middle)
    freedom = total**2 / sum(v**2 / (values.size - 1) for v, values in zip(variances, strata, strict=True))
    half = float(_scipy().t.ppf((1 + level) / 2, freedom)) * total**0.5 / len(strata)
    return Interval(middle - float(half), middle + float(half))


def interquartile_interval(scores: Scores, **choices: Any) -> Interval | None:
    """Interval of `interquartile_mean`; see `interval`."""
    return interval(_interquartile_mean, _arrays(scores), **choices)


def improvement_interval(scores: Scores, baseline: Scores, **choices: Any) -> Interval | None:
    """Interval of `probability_of_improvement`, for which the seeds of both methods are drawn; see `interval`."""
    return interval(_improvement, _paired(scores, baseline), **choices)


def interval(
    statistic: Callable[..., Any],
    strata: Sequence[Any],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    method: str = "percentile",
) -> Interval | None:
    """Stratified bootstrap interval: each stratum is drawn anew from itself, with replacement and as large as it is.

    Of few seeds such intervals are too narrow, see `COVERAGE`.

    Args:
        statistic: of strata whose last axis is that of the draws, to one number for each of the other axes.
        strata: arrays of numbers.
        level: share of intervals that are meant to hold the true value.
        resamples: how often all of them are drawn.
        method: "percentile", "basic" or "BCa", as `scipy.stats.bootstrap` has them.

    Returns:
        None where a stratum has a single number: nothing is known of its spread.
    """
    if any(stratum.shape[-1] < 2 for stratum in strata):
        return None
    found = (
        _scipy()
        .bootstrap(
            strata,
            lambda *drawn, axis: statistic(*drawn),
            vectorized=True,
            axis=-1,
            n_resamples=resamples,
            confidence_level=level,
            method=method,
            random_state=_generator(),
        )
        .confidence_interval
    )
    return Interval(*(end.tolist() for end in found))


def profile(scores: Scores, thresholds: Sequence[float]) -> list[float]:
    """For each threshold, the share of runs that score above it; mean over tasks."""
    return [float(share) for share in _mean(*_exceedances(scores, thresholds))]


def profile_band(scores: Scores, thresholds: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """Lower and upper ends of the interval of each share of `profile`; None with a single seed."""
    found: Any = interval(_mean, _exceedances(scores, thresholds))
    return found and (found.low, found.high)


def paired_test(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> PairedTest:
    """Compare two methods row by row: the differences of their means over seeds, rows being what is drawn anew.

    With one seed each and rows that are right or wrong, p is that of McNemar's exact test; otherwise that of a test
    which flips the signs of differences, all ways of it where these are at most `RESAMPLES`. Both take the trained
    models as given: they say nothing on what other seeds would have led to.

    Args:
        one: for each seed of the first method, how right each row is, in [0, 1]; usually 0 or 1.
        other: the same for the other method, of the same rows in the same order.

    Raises:
        ZoplatError: the numbers of rows differ.
    """
    np, stats = _numpy(), _scipy()
    if len({len(rows) for rows in [*one, *other]}) != 1:
        raise ZoplatError("A paired test needs the same rows for both methods, and their numbers of rows differ.")
    apart = np.mean(np.asarray(one, float), axis=0) - np.mean(np.asarray(other, float), axis=0)
    won, lost = int((apart > 0).sum()), int((apart < 0).sum())
    if len(one) == len(other) == 1 and set(np.abs(apart)) <= {0.0, 1.0}:
        name, p = "McNemar, exact", stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    else:
        name, p = "sign flips", _sign_flips(apart[apart != 0])
    found = interval(_mean, [apart])
    difference = float(apart.mean())
    return PairedTest(len(apart), won, lost, difference, found or Interval(difference, difference), float(p), name)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjust p values of several tests, so that with those below α something is wrong at a rate of α (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    result, highest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[index]))
        result[index] = highest
    return result


def _mean(*strata: Any) -> Any:
    return sum(stratum.mean(axis=-1) for stratum in strata) / len(strata)


def _interquartile_mean(*strata: Any) -> Any:
    return _scipy().trim_mean(_numpy().concatenate(strata, axis=-1), 0.25, axis=-1)


def _improvement(*strata: Any) -> Any:
    """Of the tasks of the method, followed by those of the baseline."""
    half = len(strata) // 2
    shares = []
    for ours, theirs in zip(strata[:half], strata[half:], strict=True):
        apart = ours[..., :, None] - theirs[..., None, :]
        shares.append(((apart > 0) + 0.5 * (apart == 0)).mean(axis=(-2, -1)))
    return sum(shares) / half


def _sign_flips(apart: Any) -> float:
    """P of a mean of differences, two-sided, under flips of their signs."""
    if apart.size < 2:
        return 1.0
    test = _scipy().permutation_test(
        (apart,),
        lambda drawn, axis: drawn.mean(axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        random_state=_generator(),
    )
    return float(test.pvalue)


def _arrays(scores: Scores) -> list[Any]:
    """The scores of each task; raises ZoplatError where there are none."""
    if not scores or not all(scores.values()):
        raise ZoplatError("Statistics need a score for each task, and there is none.")
    return [_numpy().asarray(values, float) for values in scores.values()]


def _paired(scores: Scores, baseline: Scores) -> list[Any]:
    """The scores of the method by task, and those of the baseline in the same order."""
    if scores.keys() != baseline.keys():
        raise ZoplatError(f"Compared on {', '.join(scores)}, but the baseline has {', '.join(baseline)}.")
    return [*_arrays(scores), *_arrays({task: baseline[task] for task in scores})]


def _exceedances(scores: Scores, thresholds: Sequence[float]) -> list[Any]:
    """By task, (threshold, seed) → whether the score is above."""
    levels = _numpy().asarray(thresholds, float)[:, None]
    return [(values > levels).astype(float) for values in _arrays(scores)]


def _generator() -> Any:
    return _numpy().random.default_rng(SEED)


def _numpy() -> Any:
    import numpy

    return numpy


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise ZoplatError(
            "Intervals and tests need a package that is not installed: pip install 'zoplat[eval]'"
        ) from None
    return stats
