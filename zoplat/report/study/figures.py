"""The figures of a comparison: learning curves, performance profiles, score against memory, and memory of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from zoplat.comparison.curves import Band
from zoplat.report.figures import LIGHT, WIDE, as_svg, draw_bars, panels, plain, readable, whole_numbers

COLOURS = [name for name in LIGHT if name.startswith("line") and name != "line"]
MARKS = "os^Dv<P*"
Look = tuple[str, str]


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """(colour, mark) of each method, the same in all figures; those after the first eight are grey."""
    own = {label: (LIGHT[c], m) for label, c, m in zip(labels, COLOURS, MARKS, strict=False)}
    return {label: own.get(label, (LIGHT["soft"], ".")) for label in labels}


def draw_curves(
    over: Mapping[str, Mapping[str, Band]], metric: str, known: Mapping[str, Look], name: str, width: float = WIDE
) -> str:
    """Mean dev score with a band, over each axis in a panel of its own.

    Args:
        over: title of an axis → label → its curves as one.
        metric: its name.
        known: looks of the methods.
        name: of the figure, unique on the page.
        width: in inches.
    """
    labels = [label for label in known if any(label in bands for bands in over.values())]
    figure, axes = panels(width, 2.3 * len(over) + _legend_height(labels, width), [1] * len(over))
    for ax, (title, bands) in zip(axes, over.items(), strict=True):
        for label in reversed(labels):
            if label in bands:
                found, (colour, mark) = bands[label], known[label]
                low, middle, high = ([100 * y for y in ys] for ys in (found.low, found.middle, found.high))
                ax.fill_between(found.x, low, high, color=colour, alpha=0.15 if len(bands) < 5 else 0.08, linewidth=0)
                ax.plot(found.x, middle, color=colour, marker=mark, markersize=4, linewidth=1.6)
        ax.set_xlabel(title)
        ax.set_ylabel(f"dev {plain(metric)}, %")
        if max(found.x[-1] for found in bands.values()) > 4:
            whole_numbers(ax.xaxis)
    _legend(figure, labels, known, width)
    return as_svg(figure, f"{name}{width:g}")


def draw_profiles(
    thresholds: Sequence[float],
    profiles: Mapping[str, tuple[Sequence[float], tuple[Sequence[float], Sequence[float]] | None]],
    metric: str,
    known: Mapping[str, Look],
    width: float = WIDE,
) -> str:
    """For each method the share of runs above each threshold, with its band where there is one."""
    labels = [label for label in known if label in profiles]
    figure, [ax] = panels(width, 2.6 + _legend_height(labels, width), [1])
    levels = [100 * level for level in thresholds]
    for label in reversed(labels):
        shares, band = profiles[label]
        colour = known[label][0]
        if band:
            low, high = ([100 * y for y in ys] for ys in band)
            ax.fill_between(levels, low, high, color=colour, alpha=0.12, linewidth=0, step="post")
        ax.step(levels, [100 * share for share in shares], where="post", color=colour, linewidth=1.8)
    ax.set_xlabel(f"test {plain(metric)}, %")
    ax.set_ylabel("runs above, %")
    ax.set_ylim(-3, 103)
    _legend(figure, labels, known, width, marked=False)
    return as_svg(figure, f"profiles{width:g}")


def draw_front(
    points: Mapping[str, tuple[float, float, float, int]],
    front: Sequence[str],
    metric: str,
    known: Mapping[str, Look],
    name: str,
    width: float = WIDE,
) -> str:
    """Score against peak memory, with the front joined by steps.

    Args:
        points: label → (mean score, lowest, highest, bytes).
        front: labels of the points that no other beats, by bytes.
        metric: its name.
        known: looks of the methods.
        name: of the figure, unique on the page.
        width: in inches.
    """
    labels = [label for label in known if label in points]
    figure, [ax] = panels(width, 2.9 + _legend_height(labels, width), [1])
    steps = [(points[label][3] / 2**20, 100 * points[label][0]) for label in front]
    ax.step(
        *zip(*steps, strict=True), where="post", color=LIGHT["pale"], linewidth=1.4, linestyle=(0, (4, 3)), zorder=1
    )
    for label in reversed(labels):
        score, low, high, size = points[label]
        colour, mark = known[label]
        spread = [[100 * (score - low)], [100 * (high - score)]]
        ax.errorbar(
            [size / 2**20], [100 * score], yerr=spread, color=colour, marker=mark, markersize=7, linewidth=1.1, zorder=2
        )
    ax.set_xlabel("most memory of a step, MiB")
    ax.set_ylabel(f"test {plain(metric)}, %")
    ax.margins(0.12)
    whole_numbers(ax.xaxis)
    _legend(figure, labels, known, width)
    return as_svg(figure, f"{name}{width:g}")


def draw_peaks(rows: Sequence[tuple[str, int, int, str]], inference: int, name: str, width: float = WIDE) -> str:
    """One bar a method: inference, and what a step takes above it.

    Args:
        rows: (label, bytes of inference, bytes of the highest step, colour of what is above).
        inference: bytes of the broken line.
        name: of the figure, unique on the page.
        width: in inches.
    """
    names = [fill(plain(label), 34 if width == WIDE else 16) for label, *_ in rows]
    lines = 1 + max(text.count("\n") for text in names)
    figure, [ax] = panels(width, max(0.3, 0.165 * lines) * len(names) + 0.7, [1])
    draw_bars(ax, names, [(0, low, "pale") for _, low, _, _ in rows], [""] * len(rows))
    above = [f"{readable(peak)} (+{readable(peak - low)})" if peak > low else readable(low) for _, low, peak, _ in rows]
    draw_bars(ax, names, [(low, max(0, peak - low), colour) for _, low, peak, colour in rows], above)
    ax.axvline(inference / 2**20, color=LIGHT["rust"], linewidth=1, linestyle=(0, (4, 3)))
    ax.set_xlim(0, (1.25 if width == WIDE else 1.9) * max(peak for _, _, peak, _ in rows) / 2**20)
    ax.set_xlabel("MiB")
    whole_numbers(ax.xaxis)
    return as_svg(figure, f"{name}{width:g}")


def _columns(labels: Sequence[str], width: float) -> int:
    """Columns of a legend of these labels."""
    longest = max((len(plain(label)) for label in labels), default=1)
    return max(1, min(len(labels), int((width - 0.4) / (0.45 + 0.085 * longest))))


def _legend_height(labels: Sequence[str], width: float) -> float:
    """Inches."""
    labels = labels[: len(COLOURS)]
    return 0.22 * -(-len(labels) // _columns(labels, width)) + 0.15


def _legend(figure: Any, labels: Sequence[str], known: Mapping[str, Look], width: float, marked: bool = True) -> None:
    """The methods below a figure, those in grey left out."""
    labels = labels[: len(COLOURS)]
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=known[label][0], marker=known[label][1] if marked else "", markersize=5, linewidth=1.8)
        for label in labels
    ]
    figure.legend(
        handles,
        [fill(plain(label), 46 if width < WIDE else 90) for label in labels],
        loc="outside lower left",
        ncols=_columns(labels, width),
        frameon=False,
        fontsize=9,
        handlelength=1.6,
        columnspacing=1.4,
        labelcolor=LIGHT["ink"],
    )
