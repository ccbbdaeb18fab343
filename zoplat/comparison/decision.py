"""Go or no-go: what a short run says about fine-tuning by forward passes, as a verdict with its reasons.

The thresholds are those below and nowhere else; docs/how-to/poc.md explains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from zoplat.comparison.statistics import PairedTest, adjusted

Verdict: TypeAlias = Literal["go", "no-go", "can't tell"]
Kind: TypeAlias = Literal["prompt", "method", "backpropagation"]

ALPHA = 0.05
"""A gain or a loss counts where the paired test against the model before training has a p value below this, adjusted
for the number of methods by Holm's procedure."""
GAIN = 0.02
"""Least gain of the test score that counts as one: 2 points."""
SEARCH = "--tune-trials 5 searches them."
HOPELESS = ("not learning", "diverging")
"""Outlooks of a run that speak against a method, once its settings were searched."""


@dataclass(frozen=True)
class Tried:
    """One thing that was tried: the model with a prompt alone, a method, or backpropagation.

    Attributes:
        label: its name in tables.
        kind: which of the three.
        reason: why it failed; empty where it ended well.
        score: on test, in [0, 1], after training where there was some; None where it failed.
        before: the same before training.
        test: of the rows after training against the same rows before; None where there are no predictions.
        outlook, advice: of the run, see `zoplat.training.outlook`.
        passes, seconds: of the steps of the short run.
        peak, inference: most bytes of a step, and of inference in the same process.
        full_passes, full_hours, full_cost: what a full run takes; the cost None without a price.
        full_joules: energy of its steps, at that of a pass of the short run; None where the machine does not tell.
        trials: of the search for its settings; 0 without one.
        directory: of the run.
    """

    label: str
    kind: Kind
    reason: str = ""
    score: float | None = None
    before: float | None = None
    test: PairedTest | None = None
    outlook: str = ""
    advice: str = ""
    passes: int = 0
    seconds: float | None = None
    peak: int | None = None
    inference: int | None = None
    full_passes: int | None = None
    full_hours: float | None = None
    full_cost: float | None = None
    full_joules: float | None = None
    trials: int = 0
    directory: str = ""


@dataclass(frozen=True)
class Decision:
    """A verdict.

    Attributes:
        verdict: "go", "no-go" or "can't tell".
        reasons: sentences, the deciding one first.
        best: label of what is to be gone on with; empty where there is nothing.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    best: str = ""


def decide(tried: Sequence[Tried], max_hours: float | None = None) -> Decision:
    """What some tried things say together.

    Args:
        tried: prompts, methods and backpropagation; of the last one at most.
        max_hours: that a full run may take; any when None.
    """
    methods = [one for one in tried if one.kind == "method"]
    chances = _chances(methods)
    sentences = [_sentence(one, chances.get(one.label)) for one in tried]
    verdict, why, best = _verdict(tried, methods, chances, max_hours)
    return Decision(verdict, (why, *sentences), best)


def hours_text(hours: float | None) -> str:
    """Hours for people.

    >>> hours_text(0.0412), hours_text(12.34), hours_text(None)
    ('0.04', '12.3', '–')
    """
    return "–" if hours is None else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}"


def _verdict(
    tried: Sequence[Tried], methods: Sequence[Tried], chances: dict[str, float], max_hours: float | None
) -> tuple[Verdict, str, str]:
    """Verdict, the reason that decides, and the label of what is to be gone on with."""
    prompts = [one for one in tried if one.kind == "prompt" and not one.reason]
    ended = [one for one in methods if not one.reason]
    if not ended:
        return _of_failures(methods, bool(prompts))
    zero_shot = max((one.score or 0.0 for one in prompts if one.label == "zero-shot"), default=0.0)
    helped = [one for one in ended if _gain(one, zero_shot) >= GAIN and chances.get(one.label, 1.0) < ALPHA]
    if helped:
        quick = [one for one in helped if max_hours is None or one.full_hours is None or one.full_hours <= max_hours]
        return _of_helpful(tried, prompts, helped, quick, max_hours)
    if all(_is_hopeless(one, chances) for one in ended):
        if all(one.trials for one in ended):
            return "no-go", "No method learns, with the best settings that its search found either.", ""
        return "can't tell", f"No method learns with these settings, and others were not searched. {SEARCH}", ""
    if not chances:
        return "can't tell", "No predictions on the same test rows before and after training are there to compare.", ""
    rows = max(one.test.rows for one in ended if one.test)
    return (
        "can't tell",
        f"On {rows} test rows no method gained at least {100 * GAIN:.0f} points that are more than chance "
        f"(adjusted p < {ALPHA}). More passes or more test rows may tell.",
        "",
    )


def _of_failures(methods: Sequence[Tried], is_scored: bool) -> tuple[Verdict, str, str]:
    """The same where no method ran to its end."""
    if not is_scored:
        return "can't tell", "Nothing ran to its end, not even scoring the model without training it.", ""
    if all("memory" in one.reason.lower() for one in methods):
        return "no-go", "The memory of this device is not enough for a step of any method.", ""
    if all(one.trials for one in methods):
        return "no-go", "No method ran to its end, with no settings of its search.", ""
    return "can't tell", f"No method ran to its end with these settings, and others were not searched. {SEARCH}", ""


def _of_helpful(
    tried: Sequence[Tried],
    prompts: Sequence[Tried],
    helped: Sequence[Tried],
    quick: Sequence[Tried],
    max_hours: float | None,
) -> tuple[Verdict, str, str]:
    """The same where training helped: a full run may take too long, or something else be better."""
    best = max(quick or helped, key=lambda one: one.score or 0.0)
    if not quick:
        least = min(one.full_hours or 0.0 for one in helped)
        return (
            "no-go",
            f"Training helps, but a full run takes {hours_text(least)} h, and {max_hours:g} h are allowed.",
            "",
        )
    for one in tried:
        if one.kind == "backpropagation" and _is_better_in_all(one, best):
            why = f"{one.label} scores no lower than {best.label}, needs no more memory, and takes no longer."
            return "no-go", f"Backpropagation fits here and is the better choice: {why}", one.label
    ahead = [one for one in prompts if (one.score or 0.0) >= (best.score or 0.0)]
    if ahead:
        return (
            "can't tell",
            f"Training helps, but {ahead[0].label} scores {_percent(ahead[0].score)} without any, and {best.label} has "
            f"not passed that yet ({_percent(best.score)}).",
            best.label,
        )
    return (
        "go",
        f"{best.label} raised the test score from {_percent(best.before)} to {_percent(best.score)} in "
        f"{best.passes:,} forward passes, more than chance does. {_full(best)}".strip(),
        best.label,
    )


def _full(one: Tried) -> str:
    """What a full run takes."""
    if one.full_hours is None:
        return ""
    cost = "" if one.full_cost is None else f" and costs {one.full_cost:,.2f}"
    return f"A full run of {one.full_passes:,} passes takes about {hours_text(one.full_hours)} h{cost}."


def _is_better_in_all(other: Tried, best: Tried) -> bool:
    """Whether another scores no lower, with no more memory and in no more time; all have to be known."""
    pairs = [(best.score, other.score), (other.peak, best.peak), (other.full_hours, best.full_hours)]
    return all(low is not None and high is not None and low <= high for low, high in pairs)


def _gain(one: Tried, zero_shot: float) -> float:
    """How far it is above the model before training, and above zero-shot, where that is another starting point."""
    return (one.score or 0.0) - max(one.before or 0.0, zero_shot)


def _is_hopeless(one: Tried, chances: dict[str, float]) -> bool:
    is_worse = one.test is not None and one.test.difference < 0 and chances[one.label] < ALPHA
    return is_worse or one.outlook in HOPELESS


def _chances(methods: Sequence[Tried]) -> dict[str, float]:
    """Adjusted p values by label."""
    tests = {one.label: one.test.p for one in methods if one.test}
    return dict(zip(tests, adjusted([*tests.values()]), strict=True))


def _sentence(one: Tried, chance: float | None) -> str:
    """What happened to one of them."""
    if one.reason:
        return f"{one.label} failed: {one.reason}"
    if one.kind == "prompt":
        return f"{one.label}: {_percent(one.score)} on test, without training."
    text = f"{one.label}: {_percent(one.before)} before, {_percent(one.score)} after"
    if one.test and chance is not None:
        text += f"; of {one.test.rows} test rows {one.test.won} won and {one.test.lost} lost, p {chance:.3f}"
    if one.outlook:
        text += f"; outlook: {one.outlook}"
    return f"{text}. {one.advice}".strip()


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
