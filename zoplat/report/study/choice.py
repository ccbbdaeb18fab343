"""Which method to take, by the numbers of a comparison: by score, by memory, by time, and how certain that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from zoplat.comparison import statistics
from zoplat.comparison.curves import pareto
from zoplat.comparison.statistics import COVERAGE, Interval
from zoplat.core.notices import counted
from zoplat.report.figures import readable
from zoplat.report.pages import Part, Rows
from zoplat.report.study.reading import Study
from zoplat.report.study.scores import RATE, amount, between, percent

UNEQUAL = 1.1
"""Largest over smallest number of passes at which budgets still count as equal."""


@dataclass(frozen=True)
class Candidate:
    """A trained method with scores on every task of a comparison.

    Attributes:
        label: its name in tables.
        estimator: registered name of the method.
        score: mean of its test scores over tasks, in [0, 1].
        interval: of that mean over other seeds; None with a single seed.
        beaten: how likely a run of the best candidate beats one of this on a task; None for the best itself, and with
            a single seed.
        above: most bytes that a step took above inference; None where that was not measured.
        passes: forward passes of a run, mean over tasks.
        seconds: of training a run, mean over tasks.
        backpropagates: whether it needs gradients, and so is no candidate for the choice but stands beside it.
    """

    label: str
    estimator: str
    score: float
    interval: Interval | None
    beaten: Interval | None
    above: int | None
    passes: float
    seconds: float
    backpropagates: bool


def candidates(study: Study) -> list[Candidate]:
    """The methods that can be chosen between, the best score first; those that backpropagate stand among them."""
    own = [_candidate(study, label) for label in study.everywhere if _is_trained(study, label)]
    best = next((one for one in own if not one.backpropagates), None)
    return [_beside(study, one, best) for one in own] if best else own


def as_good(found: Sequence[Candidate]) -> list[Candidate]:
    """Of those that make forward passes alone, the best, and all that can't be distinguished from it."""
    forward = [one for one in found if not one.backpropagates]
    return forward[:1] + [one for one in forward[1:] if one.beaten is None or one.beaten.low <= 0.5]


def choice_parts(study: Study) -> list[Part]:
    """What to take by score, memory and time, as sentences and a table, with how certain it is."""
    found = candidates(study)
    forward = [one for one in found if not one.backpropagates]
    if not forward:
        return ["No method that makes forward passes alone has scores on every task here, so there is no choice."]
    parts: list[Part] = [
        f"By score, {_by_score(study, found)}",
        f"By memory, {_by_memory(found)}",
        f"By time, {_by_time(forward)}",
        _table(found),
        _certainty(study, found),
    ]
    left_out = [label for label in study.labels if label not in study.everywhere]
    if left_out:
        parts.append(f"Left out, for want of scores on some task: {', '.join(left_out)}.")
    return parts


def _is_trained(study: Study, label: str) -> bool:
    return all(method.is_trained for method in study.methods if method.label == label)


def _candidate(study: Study, label: str) -> Candidate:
    methods = [method for method in study.methods if method.label == label]
    peaks = [(method.peak("step_peak_bytes"), method.peak("forward_peak_bytes")) for method in methods]
    above = [max(0, step - forward) for step, forward in peaks if step is not None and forward is not None]
    return Candidate(
        label,
        methods[0].group.estimator,
        statistics.mean(study.scores(label)),
        statistics.student_interval(study.scores(label)),
        None,
        max(above) if len(above) == len(methods) else None,
        fmean(method.mean("forward_passes") or 0 for method in methods),
        fmean(method.mean("seconds_training") or 0 for method in methods),
        any(method.backpropagates for method in methods),
    )


def _beside(study: Study, one: Candidate, best: Candidate) -> Candidate:
    """A candidate with what it is beside the best one."""
    if one.label == best.label:
        return one
    beaten = statistics.improvement_interval(study.scores(best.label), study.scores(one.label))
    return Candidate(**{**vars(one), "beaten": beaten})


def _by_score(study: Study, found: Sequence[Candidate]) -> str:
    best, *others = as_good(found)
    forward = [one for one in found if not one.backpropagates]
    passes = [one.passes for one in found]
    if max(passes) <= UNEQUAL * min(passes):
        budget = f"at equal passes ({amount(fmean(passes))} a run)"
    else:
        budget = f"at passes that were not equal ({amount(min(passes))} to {amount(max(passes))} a run)"
    text = f"{budget}: {best.label}, {percent(best.score)} % over {counted(len(study.tasks), 'task')}."
    if others:
        text += f" By these runs it can't be distinguished from {_list([one.label for one in others])}."
    worse = len(forward) - 1 - len(others)
    if worse:
        text += f" {counted(worse, 'other')} {'is' if worse == 1 else 'are'} beaten by it more often than not."
    firsts = {
        task: next((m.label for m in study.on(task) if m.label in {f.label for f in forward}), "")
        for task in study.tasks
    }
    if len({*firsts.values()}) > 1:
        text += f" Best by task: {'; '.join(f'{task}, {label}' for task, label in firsts.items())}."
    return text


def _by_memory(found: Sequence[Candidate]) -> str:
    measured = {one.label: (one.score, one.above) for one in found if one.above is not None}
    if not measured:
        return "nothing can be said: the memory of steps was not measured."
    forward = [one for one in found if not one.backpropagates and one.above is not None]
    front = pareto({label: (score, above) for label, (score, above) in measured.items() if above is not None})
    steps = "; ".join(f"with {readable(measured[one][1] or 0)}, {one} ({percent(measured[one][0])} %)" for one in front)
    text = f"best for what a step takes above inference: {steps}."
    heavy = [one for one in found if one.backpropagates and one.above]
    if heavy and forward:
        least, most = (pick(one.above or 0 for one in forward) for pick in (min, max))
        text += f" Forward passes alone take {readable(least)} to {readable(most)} above inference" + "".join(
            f", {one.label}, which backpropagates, {readable(one.above or 0)}" for one in heavy
        )
        return text + "."
    return f"{text} No method that backpropagates has scores on every task here, so that nothing stands beside this."


def _by_time(forward: Sequence[Candidate]) -> str:
    quick = sorted((one for one in forward if one.passes), key=lambda one: one.seconds / one.passes)
    if not quick:
        return "nothing can be said: seconds are not on record."
    first, best = quick[0], forward[0]
    text = f"a pass of {first.label} is the shortest, {_pace(first)}"
    text += "." if first.label == best.label else f"; one of {best.label}, the best by score, takes {_pace(best)}."
    return f"{text} Runs that shared a machine are slower for it, so that small differences say nothing."


def _pace(one: Candidate) -> str:
    return f"{1000 * one.seconds / one.passes:,.0f} ms"


def _table(found: Sequence[Candidate]) -> Rows:
    best = as_good(found)
    body = [
        [
            one.label + (" (backpropagation)" if one.backpropagates else ""),
            percent(one.score),
            between(one.interval),
            "–" if one.backpropagates or one is best[0] else between(one.beaten, scale=1),
            "–" if one.backpropagates or one is best[0] else "not shown" if one in best else "yes",
            f"{one.above / 2**20:,.0f}" if one.above is not None else "–",
            amount(one.passes),
            amount(one.seconds),
        ]
        for one in found
    ]
    head = ("method", "mean, %", f"{RATE} interval", f"P({best[0].label} is better)", "worse than the best")
    return Rows((*head, "above inference, MiB", "passes", "seconds"), body)


def _certainty(study: Study, found: Sequence[Candidate]) -> str:
    seeds = min(method.seeds for method in study.methods if method.is_trained)
    text = (
        f"Intervals of means are Student's, over {counted(seeds, 'seed')} and these tasks as given. P is how likely a "
        "run of the best beats one of the method on a task; a method counts as worse where the bootstrap interval of P "
        "lies above one half. Where it does not, nothing is shown either way: more seeds would tell."
    )
    if seeds < 2:
        return f"{text} With a single seed there are no intervals, and no method is shown to be worse."
    known = [n for n in COVERAGE if n <= seeds]
    return (
        f"{text} With so few seeds these intervals are too narrow: of {counted(max(known), 'seed')} of one task, "
        f"{100 * COVERAGE[max(known)]:.0f} % of them hold a mean, in simulations; and the best of {len(found)} is "
        "the luckiest too."
    )


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
