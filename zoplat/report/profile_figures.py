"""The figures of the memory report: stacks of owners, and memory over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from zoplat.report.figures import LIGHT, WIDE, as_svg, panels, plain, readable
from zoplat.training.attribution import ALLOCATOR, CODE, HELD, LIBRARIES, NOBODY, OPENING

GROUPS = {
    "weights": "line1",
    "state of the method": "line2",
    "gradients": "line4",
    "activations and logits": "line3",
    "libraries": "pale",
    "kept free by allocators": "line",
    NOBODY: "line6",
}
"""Group of owners → its colour, in the order in which they are stacked."""
OF_LIBRARIES = LIBRARIES | {OPENING, CODE, HELD, "python and onnxruntime", "graph"}
OF_PASSES = {"activations", "logits"}
OF_ALLOCATORS = {ALLOCATOR, "allocator of the host, freed and kept", "work buffers of MKL"}


def grouped(owners: Mapping[str, int]) -> dict[str, int]:
    """Bytes by group, in the order of `GROUPS`; what is in no other group is state of the method."""
    found: Counter[str] = Counter()
    for owner, size in owners.items():
        found[_group(owner)] += size
    return {group: found[group] for group in GROUPS if found[group]}


def _group(owner: str) -> str:
    if owner in ("gradients", NOBODY):
        return owner
    if owner in OF_LIBRARIES:
        return "libraries"
    if owner in OF_PASSES:
        return "activations and logits"
    if owner in OF_ALLOCATORS:
        return "kept free by allocators"
    is_weight = owner.startswith(("trainable weights", "frozen weights", "window of the streaming"))
    return "weights" if is_weight or owner == "weights" else "state of the method"


def draw_stacks(
    bars: Sequence[tuple[str, Mapping[str, int], Mapping[str, int] | None]], inference: int, width: float = WIDE
) -> str:
    """One stack of (name, bytes by group, planned bytes) a bar; a broken line at inference where it is not 0."""
    letters = 26 if width == WIDE else 14
    names = [fill(plain(name), letters) for name, _, _ in bars]
    figure, [axes] = panels(width, 0.42 * len(bars) + (1.5 if width == WIDE else 2.4), (1,))
    starts = [0.0] * len(bars)
    for group, colour in GROUPS.items():
        sizes = [stack.get(group, 0) / 2**20 for _, stack, _ in bars]
        if any(sizes):
            axes.barh(range(len(bars)), sizes, left=starts, color=LIGHT[colour], height=0.62, label=group)
            starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    for row, (_, stack, planned) in enumerate(bars):
        axes.annotate(
            readable(sum(stack.values())),
            (starts[row], row),
            (5, 9 if planned else 0),
            textcoords="offset points",
            va="center",
            color=LIGHT["soft"],
            fontsize=8.5,
        )
        if planned:
            low, expected, high = (planned[name] / 2**20 for name in ("low", "expected", "high"))
            axes.plot([low, high], [row, row], color=LIGHT["ink"], linewidth=1)
            axes.plot([expected], [row], "|", color=LIGHT["ink"], markersize=11)
    if inference:
        axes.axvline(inference / 2**20, color=LIGHT["rust"], linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(bars)), names)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, (1.12 if width == WIDE else 1.4) * max(starts))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("MiB")
    figure.legend(loc="outside lower left", ncols=4 if width == WIDE else 2, frameon=False, fontsize=8)
    return as_svg(figure, f"stacks{len(bars)}{width:g}")


def draw_timeline(rows: Sequence[Mapping[str, Any]], place: str, width: float = WIDE) -> str:
    """Samples of memory over time, and above them the peak of each stretch, its phase in colour."""
    figure, [axes] = panels(width, 3.4, (1,))
    samples = [(row["began"], row[place] / 2**20) for row in rows if row["kind"] == "sample"]
    stretches = [row for row in rows if row["kind"] == "stretch" and row["ended"] > row["began"]]
    phases = [*dict.fromkeys(row["phase"] for row in stretches)]
    for phase in phases:
        spans = [
            ((row["began"], row["ended"]), (row[place] / 2**20,) * 2) for row in stretches if row["phase"] == phase
        ]
        colour = LIGHT[f"line{1 + phases.index(phase) % 8}"]
        for number, (times, peaks) in enumerate(spans):
            axes.plot(times, peaks, color=colour, linewidth=2.4, label=None if number else plain(phase))
            axes.axvspan(*times, color=colour, alpha=0.09, linewidth=0)
    if samples:
        axes.plot(*zip(*samples, strict=True), color=LIGHT["ink"], linewidth=0.9)
    low = min([peak for _, peak in samples] or [0])
    axes.set_ylim(bottom=0.98 * low)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"{place} memory, MiB")
    figure.legend(loc="outside lower left", ncols=5 if width == WIDE else 3, frameon=False, fontsize=8)
    return as_svg(figure, f"timeline{width:g}")
