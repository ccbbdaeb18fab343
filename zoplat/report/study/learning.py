"""The section of a comparison on learning: curves over passes and seconds, targets, and equal budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean

from zoplat.comparison.curves import AXES, Band, Curve, band, reached, score_at
from zoplat.report.pages import Part, Picture, Rows
from zoplat.report.study.figures import COLOURS, Look, draw_curves
from zoplat.report.study.reading import Method, Study
from zoplat.report.study.scores import amount, percent

GREY = f" The best {len(COLOURS)} methods have colours, the others are grey."
EQUAL = "Equal budgets are the least that any method here spent; a run has the score of its newest evaluation before."
TITLES = {"passes": "forward passes of training", "seconds": "seconds of training"}


def learning_parts(study: Study, known: dict[str, Look], target: float | None = None) -> list[Part]:
    """For each task a figure, and a table of what a target costs and what equal budgets buy.

    Args:
        study: the comparison.
        known: looks of the methods.
        target: dev score in [0, 1]; by default half of the best mean gain on dev.
    """
    parts: list[Part] = []
    for number, task in enumerate(study.tasks):
        parts += [f"Task `{task}`:"] if len(study.tasks) > 1 else []
        methods = [method for method in study.on(task) if method.curves("passes")]
        if methods:
            parts += [_picture(task, number, methods, known), *_budgets(methods, target)]
        else:
            parts.append("No method here was trained, so there is no curve.")
    return parts


def _picture(task: str, number: int, methods: Sequence[Method], known: dict[str, Look]) -> Picture:
    over: dict[str, dict[str, Band]] = {}
    for axis in AXES:
        bands = {method.label: band(curves) for method in methods if (curves := method.curves(axis))}
        if bands:
            over[TITLES[axis]] = bands
    metric = str(methods[0].runs[0].summary.metric)
    name = f"learning-{number}"
    count = "–".join(map(str, sorted({min(method.seeds for method in methods), max(m.seeds for m in methods)})))
    missing = "" if len(over) == 2 else " Earlier versions kept no seconds at evaluations, so these are left out."
    rows = methods[0].runs[0].metrics[0].get("rows") if methods[0].runs[0].metrics else None
    return Picture(
        name,
        partial(draw_curves, over, metric, known, name),
        f"{metric.capitalize()} on the {f'{rows:,} ' if rows else ''}dev rows of {task}. Lines are means over {count} "
        "seeds, and bands go from the lowest to the highest seed. A mark is an evaluation; what those cost is not "
        "counted." + missing + GREY * (len(methods) > len(COLOURS)),
        f"Learning curves on {task}: "
        + ", ".join(f"{method.label} ends at {_final(method)} %" for method in methods)
        + " on dev.",
    )


def _final(method: Method) -> str:
    return percent(fmean(points[-1][1] for points in method.curves("passes")))


def _budgets(methods: Sequence[Method], target: float | None) -> list[Part]:
    curves = {method.label: {axis: method.curves(axis) for axis in AXES} for method in methods}
    goal = _halfway(curves) if target is None else target
    spent = {axis: _least(curves, axis) for axis in AXES}
    body = [
        [
            label,
            *([] if goal is None else [_until(own[axis], goal) for axis in AXES]),
            *(_bought(own[axis], spent[axis]) for axis in AXES),
        ]
        for label, own in curves.items()
    ]
    passes, seconds = ("–" if (least := spent[axis]) is None else amount(least) for axis in AXES)
    equal = (f"dev at {passes} passes", f"dev at {seconds} s")
    if goal is None:
        return [Rows(("method", *equal), body), f"No method gained on dev, so there is no target to reach. {EQUAL}"]
    shown = percent(goal)
    why = (
        "the target that was asked for"
        if target is not None
        else "half way from the score before training to the best mean after it"
    )
    return [
        Rows(("method", f"passes to {shown} %", f"seconds to {shown} %", *equal), body),
        f"{shown} % is {why}. A target counts as reached at the first evaluation that has it, mean over the seeds that "
        f"reach it; in brackets, how many did where not all. {EQUAL}",
    ]


def _halfway(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> float | None:
    """Dev score between the mean before training and the best mean after it; None where the latter is no better."""
    own = [runs["passes"] for runs in curves.values()]
    before = fmean(points[0][1] for runs in own for points in runs)
    best = max(fmean(points[-1][1] for points in runs) for runs in own)
    return (before + best) / 2 if best > before else None


def _least(curves: Mapping[str, Mapping[str, Sequence[Curve]]], axis: str) -> float | None:
    """The least that the runs of all methods spent; None where none of them says."""
    return min((points[-1][0] for runs in curves.values() for points in runs[axis]), default=None)


def _until(curves: Sequence[Curve], goal: float) -> str:
    found = [x for points in curves if (x := reached(points, goal)) is not None]
    if not found:
        return "–" if not curves else "not reached"
    return amount(fmean(found)) + ("" if len(found) == len(curves) else f" ({len(found)} of {len(curves)})")


def _bought(curves: Sequence[Curve], budget: float | None) -> str:
    found = [score for points in curves if budget is not None and (score := score_at(points, budget)) is not None]
    return percent(fmean(found)) if found else "–"
