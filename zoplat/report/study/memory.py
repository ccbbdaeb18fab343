"""The section of a comparison on memory: score against it, each method beside inference and backpropagation, phases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean

from zoplat.comparison.curves import pareto
from zoplat.report.account import MEANING
from zoplat.report.figures import readable
from zoplat.report.pages import Part, Picture, Rows
from zoplat.report.study.figures import COLOURS, Look, draw_front, draw_peaks
from zoplat.report.study.learning import GREY
from zoplat.report.study.reading import Method, Study
from zoplat.report.study.scores import percent

ASIDE = ("open", "yardstick", "other")
"""Phases that are no work of a method."""
YARDSTICK = (
    "Backpropagation of LoRA with checkpointing, the usual way to save memory, was not measured in these runs. `zoplat "
    "run --estimator adamw -o estimator.recompute=true` with their other settings, and with `--tune lora` where they "
    "train all weights, measures it; name its run directory beside these."
)


def front_parts(study: Study, known: dict[str, Look]) -> list[Part]:
    """For each task the scores against the memory of steps, and the best for each size."""
    parts: list[Part] = []
    for number, task in enumerate(study.tasks):
        measured = [(method, peak) for method in study.on(task) if (peak := method.peak("step_peak_bytes"))]
        points = {method.label: (*_spread(method), peak) for method, peak in measured if method.label in known}
        if not points:
            parts.append(f"No step of a method was measured on {task}.")
            continue
        front = pareto({label: (point[0], point[3]) for label, point in points.items()})
        metric = str(measured[0][0].runs[0].summary.metric)
        line = "; ".join(f"within {readable(points[one][3])}, {one} ({percent(points[one][0])} %)" for one in front)
        parts += [f"Task `{task}`:"] if len(study.tasks) > 1 else []
        parts += [
            Picture(
                f"front-{number}",
                partial(draw_front, points, front, metric, known, f"front-{number}"),
                "Mean test score against the most memory of a step; vertical lines go from the lowest to the highest "
                "seed. The broken line joins the methods that no other beats in both."
                + GREY
                * (len(points) > len(COLOURS)),
                f"Score against memory on {task}: " + line + ".",
            ),
            f"Best for the memory: {line}.",
        ]
    return parts


def _spread(method: Method) -> tuple[float, float, float]:
    return fmean(method.scores), min(method.scores), max(method.scores)


def memory_parts(study: Study) -> list[Part]:
    """For each task the memory of each method beside inference and backpropagation, and peaks by phase."""
    parts: list[Part] = []
    for number, task in enumerate(study.tasks):
        methods = [method for method in study.on(task) if method.peak("step_peak_bytes")]
        methods = sorted(methods, key=lambda method: method.peak("step_peak_bytes") or 0)
        if methods:
            parts += [f"Task `{task}`:"] if len(study.tasks) > 1 else []
            parts += [_picture(number, task, methods), _by_phase(methods)]
    if not parts:
        return ["No memory was measured."]
    if not any(method.is_yardstick for method in study.methods):
        parts.append(YARDSTICK)
    return parts


def _picture(number: int, task: str, methods: Sequence[Method]) -> Picture:
    rows = []
    for method in methods:
        inference, peak = method.peak("forward_peak_bytes") or 0, method.peak("step_peak_bytes") or 0
        colour = "rust" if method.backpropagates else "blue"
        name = f"{method.label}: LoRA, checkpointing" if method.is_yardstick else method.label
        rows.append((name, inference, max(peak, inference), colour))
    least = min(inference for _, inference, _, _ in rows)
    rows = [("inference alone", least, least, "pale"), *rows]
    by_bp = any(method.backpropagates for method in methods)
    return Picture(
        f"peaks-{number}",
        partial(draw_peaks, rows, least, f"peaks-{number}"),
        "Most memory of a step, the highest of all seeds. The first part of a bar is inference in the same process; "
        "its end, and the number in brackets, what training takes above that. The broken line is the lowest inference "
        "of all." + (" Orange is backpropagation." if by_bp else ""),
        f"Bars of memory on {task}: " + ", ".join(f"{name} {readable(peak)}" for name, _, peak, _ in rows) + ".",
    )


def _by_phase(methods: Sequence[Method]) -> Rows:
    """Highest peak of each phase over seeds, of the accelerator where it has memory of its own."""
    peaks = [_peaks(method) for method in methods]
    phases = [phase for phase in MEANING if phase not in ASIDE and any(phase in own for own in peaks)]
    body = [
        [method.label, *(f"{own[phase] / 2**20:,.0f}" if own.get(phase) else "–" for phase in phases)]
        for method, own in zip(methods, peaks, strict=True)
    ]
    return Rows(("peak, MiB", *phases), body)


def _peaks(method: Method) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in method.runs:
        for row in run.phases:
            found[row["phase"]] = max(found.get(row["phase"], 0), row.get("device_peak") or row.get("host_peak") or 0)
    return found
