"""The sections of a comparison on scores: tables with intervals, what is better than the baseline, profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from zoplat.comparison import statistics
from zoplat.comparison.statistics import COVERAGE, LEVEL, Interval, PairedTest, Scores
from zoplat.comparison.table import differences
from zoplat.core.notices import counted
from zoplat.report.pages import Part, Picture, Rows
from zoplat.report.study.figures import Look, draw_profiles
from zoplat.report.study.reading import Method, Study

POINTS = 101
"""Thresholds of a profile."""
RATE = f"{100 * LEVEL:.0f} %"


def score_parts(study: Study) -> list[Part]:
    """What is best, and a table for each task."""
    parts: list[Part] = [_lead(study), *([_grid(study)] if len(study.tasks) > 1 else [])]
    for task in study.tasks:
        parts += [f"Task `{task}`:"] if len(study.tasks) > 1 else []
        parts.append(score_table(study.on(task)))
    apart = differences([method.group for method in study.methods])
    parts.append(
        f"Test scores are means over seeds, with {RATE} intervals by Student's law, which hold their rate with few "
        "seeds if scores are close to normal; they are about other seeds, not about other test rows. Gain is the test "
        "score after training less the one before. A peak is the most memory of a step, on an accelerator its own."
    )
    if apart:
        parts.append(f"Not the same for all methods of a task, beside their own settings: {', '.join(apart)}.")
    if study.unfinished:
        parts.append(f"Not finished, and in no mean: {counted(study.unfinished, 'run')}.")
    return parts + _left_out("Failed", study.failed) + _left_out("Broke the terms of the comparison", study.violations)


def _left_out(why: str, runs: Sequence[Mapping[str, Any]]) -> list[Part]:
    """A table of runs that are in no mean; nothing where there are none."""
    keys = ("estimator", "task", "seed", "reason")
    body = [["" if run.get(key) is None else str(run[key]) for key in keys] for run in runs]
    if not body:
        return []
    return [f"{why}, and in no mean: {counted(len(body), 'run')}.", Rows(("method", *keys[1:]), body, words=4)]


def _grid(study: Study) -> Rows:
    """Mean test scores of all methods on all tasks."""
    body = []
    for label in study.labels:
        means = {task: fmean(scores) for task, scores in study.scores(label).items()}
        shown = [percent(means[task]) if task in means else "–" for task in study.tasks]
        body.append([label, *shown, percent(fmean(means.values())) if label in study.everywhere else "–"])
    return Rows(("method", *(f"{task}, %" for task in study.tasks), "mean, %"), body)


def _lead(study: Study) -> str:
    best = [study.on(task)[0] for task in study.tasks]
    names = [method.task for method in best] if len(best) > 1 else ["test"]
    lines = "; ".join(
        f"on {name}, {method.label} with {_metric(method)} {percent(fmean(method.scores))} %"
        for name, method in zip(names, best, strict=True)
    )
    seeds = sorted({method.seeds for method in study.methods})
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"Best {lines}. Each method ran with {number} seed{'' if seeds == [1] else 's'}."


def _metric(method: Method) -> str:
    return str(method.runs[0].summary.metric)


def score_table(methods: Sequence[Method]) -> Rows:
    """A row for each method of a task: scores with intervals, and what they cost."""
    head = ("method", f"test {_metric(methods[0])}, %", f"{RATE} interval", "gain, points", "dev, %")
    costs = ("passes", "seconds", "peak, MiB", "seeds")
    return Rows((*head, *costs), [_line(method) for method in methods])


def _line(method: Method) -> list[str]:
    gains = [100 * (run.summary.test_after - (run.summary.test_before or 0.0)) for run in method.runs]
    dev, passes, seconds = (method.mean(name) for name in ("dev_after", "forward_passes", "seconds_training"))
    peak = method.peak("step_peak_bytes")
    return [
        method.label,
        percent(fmean(method.scores)),
        between(statistics.student_interval({"": method.scores})),
        f"{fmean(gains):+.1f}" if method.is_trained else "–",
        "–" if dev is None else percent(dev),
        f"{passes:,.0f}" if passes is not None else "–",
        amount(seconds) if seconds is not None and method.is_trained else "–",
        f"{peak / 2**20:,.0f}" if peak else "–",
        str(method.seeds),
    ]


def percent(share: float) -> str:
    """A share in [0, 1] as per cent."""
    return f"{100 * share:.1f}"


def amount(value: float) -> str:
    """Seconds, passes or steps: a decimal below ten where it is no whole number."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def between(interval: Interval | None, scale: float = 100, lowest: float = 0.0) -> str:
    """An interval of shares, cut to what can be; a dash where there is none.

    Args:
        interval: of shares.
        scale: 100 for per cent.
        lowest: of all that can be: 0, or −1 for a difference.
    """
    if interval is None:
        return "–"
    if interval.low == interval.high and scale > 1:
        return "no spread"
    low, high = max(lowest, interval.low), min(1.0, interval.high)
    return f"{scale * low:.1f} to {scale * high:.1f}" if scale > 1 else f"{low:.2f} to {high:.2f}"


def comparison_parts(study: Study, baseline: str) -> list[Part]:
    """Aggregates over tasks and seeds, and tests on the same rows, against a baseline."""
    labels = study.everywhere
    if baseline not in labels or len(labels) < 2:
        return ["There is nothing to compare: fewer than two methods have scores on every task."]
    theirs, body = study.scores(baseline), []
    for label in labels:
        ours = study.scores(label)
        body.append(
            [
                label,
                percent(statistics.mean(ours)),
                percent(statistics.interquartile_mean(ours)),
                between(statistics.interquartile_interval(ours)),
                "–" if label == baseline else f"{statistics.probability_of_improvement(ours, theirs):.2f}",
                "–" if label == baseline else between(statistics.improvement_interval(ours, theirs), scale=1),
            ]
        )
    left_out = [label for label in study.labels if label not in labels]
    head = ("method", "mean, %", "IQM, %", f"{RATE} interval", f"P(better than {baseline})", f"{RATE} interval")
    parts: list[Part] = [Rows(head, body), _on_aggregates(study)]
    if left_out:
        parts.append(f"Left out, for want of scores on some task: {', '.join(left_out)}.")
    return parts + _paired(study, baseline)


def _on_aggregates(study: Study) -> str:
    several = [method.seeds for method in study.methods if method.label in study.everywhere and method.seeds > 1]
    known = [n for n in COVERAGE if n <= min(several, default=0)]
    narrow = ""
    if known:
        rate = 100 * COVERAGE[max(known)]
        narrow = f" In simulations, {rate:.0f} % of those from {counted(max(known), 'seed')} of one task hold the mean."
    return (
        "IQM is the interquartile mean, that of the middle half of all scores. P(better) is how likely a run of the "
        "method beats one of the baseline on a task, ties counted half. Intervals are stratified bootstraps, which "
        f"draw seeds anew within each task: {statistics.RESAMPLES:,} resamples, percentiles, generator seed "
        f"{statistics.SEED}; of few seeds they are too narrow.{narrow} Definitions: arXiv:2108.13264."
    )


def _paired(study: Study, baseline: str) -> list[Part]:
    found = [
        (method, test)
        for task in study.tasks
        for method in study.on(task)
        if method.label != baseline and (test := paired_with(study, method, baseline))
    ]
    if not found:
        return ["The same test rows can't be compared: these runs kept no predictions, or have other test rows."]
    chances = statistics.adjusted([test.p for _, test in found])
    body = [
        [
            method.label,
            method.task,
            f"{test.rows:,}",
            f"{test.won:,}",
            f"{test.lost:,}",
            f"{100 * test.difference:+.1f}",
            between(test.interval, lowest=-1.0),
            f"{p:.3f}" if p >= 0.001 else "<0.001",
        ]
        for (method, test), p in zip(found, chances, strict=True)
    ]
    head = ("method", "task", "test rows", "won", "lost", "points", f"{RATE} interval", "p")
    names = " and ".join(dict.fromkeys(test.name for _, test in found))
    return [
        f"On the same test rows as {baseline}: a row is won by the method that is right on it in more of its runs.",
        Rows(head, body, words=2).without_constant("task"),
        f"p is that of a two-sided paired test ({names}), adjusted for {counted(len(found), 'test')} by Holm's "
        "procedure; intervals draw rows anew. Both are about other test rows for these trained models, not about "
        "other seeds.",
    ]


def paired_with(study: Study, method: Method, baseline: str) -> PairedTest | None:
    """A method and the baseline on the same test rows of a task; None where rows differ or predictions are missing."""
    for other in study.on(method.task):
        if other.label == baseline:
            rows = {one.group.terms.get("test") for one in (method, other)}
            sides = [_right(one) for one in (method, other)]
            is_same = len(rows) == 1 and " " in str(rows.pop())  # a number of rows, and the digest of their content
            sizes = {len(right) for side in sides for right in side}
            return statistics.paired_test(*sides) if is_same and all(sides) and len(sizes) == 1 else None
    return None


def _right(method: Method) -> list[list[float]]:
    """For each seed, whether each test row is right after training; empty where a run kept no predictions."""
    kept = [run.predictions for run in method.runs]
    return [[float(right) for right in one[max(one)].right] for one in kept] if all(kept) else []


def _is_many(scores: Scores) -> bool:
    """Whether there are enough seeds for a band that says something."""
    return min(map(len, scores.values())) > 2


def profile_parts(study: Study, known: dict[str, Look]) -> list[Part]:
    """The figure of performance profiles."""
    labels = [label for label in study.everywhere if label in known][:8]
    scores = {label: study.scores(label) for label in labels}
    every = [value for own in scores.values() for values in own.values() for value in values]
    low, high = min(every) - 0.01, max(every) + 0.01
    levels = [low + (high - low) * i / (POINTS - 1) for i in range(POINTS)]
    profiles = {
        label: (statistics.profile(own, levels), statistics.profile_band(own, levels) if _is_many(own) else None)
        for label, own in scores.items()
    }
    metrics = dict.fromkeys(_metric(method) for method in study.methods)
    metric = next(iter(metrics)) if len(metrics) == 1 else "score"
    banded = any(band for _, band in profiles.values())
    few = len(study.labels) - len(labels)
    return [
        Picture(
            "profiles",
            partial(draw_profiles, levels, profiles, metric, known),
            "For each score, the share of a method's runs that are above it: mean over tasks of the share over seeds. "
            "The further to the right a line falls, the better."
            + (
                f" Bands are pointwise {RATE} bootstrap intervals."
                if banded
                else " Fewer than three seeds have no band."
            )
            + (f" The best {len(labels)} methods are drawn; {few} more are not." if few else ""),
            f"Performance profiles of {', '.join(labels)}.",
        )
    ]
