"""Whether a run is learning, while it goes on, and what to try where it is not.

Three numbers decide. How far the losses fell, in standard errors: batches differ, so a fall counts only once it is
larger than that. How far they could have fallen, the sum of what every step's own slopes promise to first order
(`TraceRecord.descent`): it is what a step of this size gains on its own batch, so the true gain is mostly less. And the
dev scores. A run whose losses did not fall has too small steps where little was promised, and slopes that are noise
where much was.

The bounds below were chosen on the runs in tests/outlook/prepared.json and tried on others, which are in the same file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Literal, TypeAlias

from zoplat.training.journal import StepRecord
from zoplat.training.trace import TraceRecord

Word: TypeAlias = Literal["learning", "can't tell yet", "not learning", "diverging"]

AFTER = 100
"""Forward passes after which the first outlook is given; the next ones at twice, four times, … as many."""
LEAST = 20
"""Losses without which nothing is said."""
ENOUGH = 10
"""Losses that a fifth of them must have for its mean to be compared with another one's."""
FALL = 3.0
"""Standard errors that a fall or a rise of the loss must have."""
GAIN = 2.5
"""Standard errors that a change of the dev score must have."""
FIRST = 5
"""Losses that the start is the mean of."""
LITTLE = 0.03
"""Share of the loss that a whole run must promise; with less, its steps are too small."""
WANTED = 0.3
"""Share of the loss that a run should promise, for the step size that is suggested."""
MUCH = 3.0
"""Standard errors of the fall which the promise must exceed where slopes are called noise."""
IMPOSSIBLE = 10.0
"""Times what was promised; a loss that fell further fell by the luck of its batches."""
BEYOND = 5.0
"""Times the loss; where more was promised and nothing came of it, the steps are far too large."""
LOST = 1e-3
"""Share of 16-bit weights; where fewer changed since the last evaluation, rounding drops the updates."""
NEAR, FAR = 0.3, 1.0
"""Reach that is suggested where steps are too large, and the one above which a step goes further than ε looks."""


@dataclass(frozen=True)
class Course:
    """What is known of a run at some step.

    Attributes:
        steps: from the journal.
        trace: from trace.jsonl; some steps may be missing.
        scores: (score, rows) of dev, the first before training.
        share: of the budget that is spent; None where only time is limited.
        lr, eps: settings of the run; None where a method has none.
        changed: share of 16-bit weights that changed since the last evaluation; None for wider ones.
    """

    steps: Sequence[StepRecord]
    trace: Sequence[TraceRecord] = ()
    scores: Sequence[tuple[float, int]] = ()
    share: float | None = None
    lr: float | None = None
    eps: float | None = None
    changed: float | None = None

    @property
    def losses(self) -> list[float]:
        """Of the steps that had one."""
        return [step.loss for step in self.steps if step.loss is not None and math.isfinite(step.loss)]

    @property
    def promised(self) -> float | None:
        """Sum of the descents of all steps, from those that were measured: in proportion to lr · slope²."""
        slopes = {record.step: record.slope for record in self.trace}
        weights = {s.step: (1.0 if s.lr is None else s.lr) * (slopes.get(s.step) or 0.0) ** 2 for s in self.steps}
        measured = [(record.descent, weights.get(record.step, 0.0)) for record in self.trace]
        known = [(descent, weight) for descent, weight in measured if descent is not None and weight]
        if not known:
            return 0.0 if any(record.moved == 0 for record in self.trace) else None
        return sum(d for d, _ in known) / sum(w for _, w in known) * sum(weights.values())

    @property
    def reach(self) -> float | None:
        """How far the first measured steps went, in units of ε; later ones may have gone astray already."""
        known = [record.reach for record in self.trace if record.reach is not None]
        return median(known[:FIRST]) if known else None


@dataclass(frozen=True)
class Outlook:
    """What a run can be expected to do.

    Attributes:
        word: "learning", "can't tell yet", "not learning" or "diverging".
        reason: the numbers behind it, in one sentence.
        advice: what to try; empty where nothing is to be changed.
        fall: how far the mean loss fell from the first steps to the newest fifth; negative where it rose.
        errors: how sure the fall is, in standard errors; see `FALL`.
        promised: how far it could have fallen by the slopes of the steps; None where a method has no slopes.
    """

    word: Word
    reason: str = ""
    advice: str = ""
    fall: float | None = None
    errors: float | None = None
    promised: float | None = None

    @property
    def arrived(self) -> float | None:
        """Share of the promised fall that arrived: the share of the squared slopes that is signal and not noise."""
        return self.fall / self.promised if self.fall is not None and self.promised else None

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.word, self.reason))) + (f". {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class _Losses:
    """The losses of a run in numbers.

    Attributes:
        start, now, best: means of the first few, of the newest fifth, and of the lowest fifth.
        start_error, error: standard errors of `start` and of `now`.
        gained, gained_error: from the first fifth to the newest one, and its standard error.
        trend: fall over the run, in standard errors: along a fitted line, or from the first fifth to the newest one,
            whichever has moved further.
    """

    start: float
    now: float
    best: float
    start_error: float
    error: float
    gained: float
    gained_error: float
    trend: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> _Losses:
        size = len(losses) // 5
        fifths = [losses[place * size : (place + 1) * size] for place in range(4)] + [losses[-size:]]
        means, spreads = [fmean(some) for some in fifths], [stdev(some) for some in fifths]
        error = max(median(spreads), spreads[-1]) / math.sqrt(size)
        gained, between = means[0] - means[-1], math.hypot(spreads[0], spreads[-1]) / math.sqrt(size)
        falls = [_trend(losses), gained / between if between and size >= ENOUGH else 0.0]
        start_error = max(median(spreads), spreads[0]) / math.sqrt(FIRST)
        start, trend = fmean(losses[:FIRST]), max(falls, key=abs)
        return cls(start, means[-1], min(means), start_error, error, gained, between, trend)

    @property
    def fall(self) -> float:
        return self.start - self.now

    @property
    def fall_error(self) -> float:
        return math.hypot(self.start_error, self.error)


def outlook(course: Course) -> Outlook:
    """What the losses, the slopes and the scores of a run say about it."""
    losses = course.losses
    if len(losses) < LEAST:
        return Outlook("can't tell yet", f"{len(losses)} losses are too few")
    seen, promised = _Losses.of(losses), course.promised
    numbers = {"fall": seen.fall, "errors": seen.trend, "promised": promised}
    between = f"the loss went from {seen.start:.3g} to {seen.now:.3g} (± {seen.error:.2g})"
    gain = _gain(course.scores)
    is_possible = promised is None or seen.fall < IMPOSSIBLE * promised
    has_fallen = (seen.trend >= FALL and seen.fall > 0 and is_possible) or gain >= GAIN
    is_beyond = promised is not None and promised > BEYOND * abs(seen.start)
    if _diverges(seen) or (is_beyond and not has_fallen):
        return Outlook("diverging", between, _smaller(course), **numbers)
    if has_fallen:
        scores = f", dev from {course.scores[0][0]:.1%} to {course.scores[-1][0]:.1%}" if len(course.scores) > 1 else ""
        return Outlook("learning", between + scores, _while_learning(gain), **numbers)
    word, advice = _flat(course, seen, promised)
    could = "" if promised is None else f", and by its slopes could have fallen by {promised:.2g}"
    return Outlook(word, between + could, advice, **numbers)


def is_due(before: int, passes: int) -> bool:
    """Whether an outlook is given, where a step took a run from `before` passes to `passes`."""
    due = AFTER
    while due <= before:
        due *= 2
    return passes >= due


def _diverges(seen: _Losses) -> bool:
    """Whether the newest losses are above the first ones, or have lost most of what was gained."""
    rise, back, gained = seen.now - seen.start, seen.now - seen.best, seen.start - seen.best
    is_above = rise > FALL * seen.fall_error or (rise > seen.fall_error and seen.trend < -FALL)
    is_lost = back > FALL * math.sqrt(2) * seen.error and back > gained / 2
    return is_above or is_lost


def _flat(course: Course, seen: _Losses, promised: float | None) -> tuple[Word, str]:
    """What to call a run whose loss did not fall, and what to try.

    Before its end it is given up only where the whole of it can't lower the loss by much: by what its slopes promise,
    or if the loss fell on as fast as two standard errors allow.
    """
    share = min(1.0, course.share) if course.share else 1.0
    if course.changed is not None and course.changed < LOST:
        return "not learning", (
            f"Only {course.changed:.2%} of the 16-bit weights changed: rounding drops the updates. "
            "Use --dtype float32, or -o device.restore=exact -o device.rounding=stochastic"
        )
    little, at_best = LITTLE * abs(seen.start), (seen.gained + 2 * seen.gained_error) / share
    is_over = share >= 1 or at_best < little
    if promised is None:
        return ("not learning", "Try ten times the --lr") if is_over else ("can't tell yet", "")
    if promised / share < little:
        return "not learning", _larger(course, seen, promised / share)
    if promised > abs(seen.start):
        return "not learning" if is_over else "can't tell yet", _smaller(course)
    if not is_over:
        return "can't tell yet", ""
    is_noise = promised > MUCH * seen.gained_error
    return "not learning", _noise(course) if is_noise else _larger(course, seen, promised / share)


def _larger(course: Course, seen: _Losses, in_all: float) -> str:
    """Advice on steps that are too small."""
    factor = _down(WANTED * abs(seen.start) / in_all) if in_all else 100.0
    lr = "" if course.lr is None else f" {factor * course.lr:.2g}"
    whole = f"the whole run could lower the loss by {in_all:.2g} at most" if in_all else "they move no weight"
    more = "" if factor > 10 else ", or more steps"
    return f"The steps are too small: {whole}. Try --lr{lr} ({factor:g} times as much){more}"


def _smaller(course: Course) -> str:
    """Advice on steps that are too large."""
    reach = course.reach
    factor = _down(reach / NEAR) if reach else 3.0
    lr = "" if course.lr is None else f" {course.lr / factor:.2g}"
    went = f"A step goes {reach:.2g} times as far as --eps looks. " if reach and reach > FAR else ""
    return f"{went}Try --lr{lr} ({factor:g} times less), or a decaying --step-rule"


def _noise(course: Course) -> str:
    """Advice on slopes that do not add up."""
    ties = [slope == 0 for record in course.trace for slope in record.slopes]
    if ties and fmean(ties) > 0.2:
        return f"{fmean(ties):.0%} of the slopes are 0: the losses can't tell ±ε apart. Try a larger --eps"
    if course.reach and course.reach > FAR:
        return _smaller(course)
    eps = f" ({course.eps:g} now)" if course.eps else ""
    return (
        "The slopes are mostly noise: they promised a fall that did not come. Try a larger --batch-size or more "
        f"--queries, and look for --eps{eps} with `zoplat profile --suggest-eps`; or the rows can't be learned"
    )


def _while_learning(gain: float) -> str:
    """Advice on a run whose loss falls."""
    if gain <= -GAIN:
        return "The dev score falls while the loss does: end the run earlier, or use more training rows"
    return ""


def _gain(scores: Sequence[tuple[float, int]]) -> float:
    """How far the dev score rose since before training, in standard errors; 0 where that can't be said."""
    if len(scores) < 2 or not all(0 <= score <= 1 for score, _ in scores):
        return 0.0
    (first, rows), (last, _) = scores[0], scores[-1]
    both = (first + last) / 2
    error = math.sqrt(2 * both * (1 - both) / rows) if rows else 0.0
    return (last - first) / error if error else 0.0


def _trend(losses: Sequence[float]) -> float:
    """Fall of the losses along a fitted line, in standard errors of its slope; positive where they fall."""
    n, middle, mean = len(losses), (len(losses) - 1) / 2, fmean(losses)
    spread = sum((place - middle) ** 2 for place in range(n))
    slope = sum((place - middle) * loss for place, loss in enumerate(losses)) / spread
    rest = sum((loss - mean - slope * (place - middle)) ** 2 for place, loss in enumerate(losses))
    error = math.sqrt(rest / (n - 2) / spread)
    return -slope / error if error else 0.0


def _down(factor: float) -> float:
    """The next smaller factor of those that people try: 3, 10, 30, … up to 1000; 3 below that.

    >>> [_down(factor) for factor in (0.4, 29.0, 47.0, 1e9)]
    [3.0, 10.0, 30.0, 1000.0]
    """
    tried = [3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
    return max((one for one in tried if one <= factor), default=tried[0])


def courses(course: Course) -> Iterator[Course]:
    """A course as it was at each number of passes at which an outlook is due, by its trace; for calibration."""
    passes = {record.step: record.passes for record in course.trace}
    before = 0
    for place, step in enumerate(course.steps):
        now = passes.get(step.step, before)
        if is_due(before, now):
            share = None if course.share is None else course.share * (place + 1) / len(course.steps)
            kept = [record for record in course.trace if record.step <= step.step]
            yield Course(course.steps[: place + 1], kept, course.scores[:1], share, course.lr, course.eps)
        before = now
