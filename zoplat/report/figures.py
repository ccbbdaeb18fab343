"""The figures of a report, drawn with matplotlib as SVG in the light colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import accumulate
from textwrap import fill, shorten
from typing import Any

from zoplat.core.errors import ZoplatError

WIDE, NARROW = 8.2, 3.75
"""Inches of a figure on a page, and on a telephone, at the same size of letters."""
LIGHT = {
    "paper": "#fcfcfa",
    "card": "#f3f3ef",
    "ink": "#22262b",
    "soft": "#666d76",
    "line": "#dcdcd6",
    "blue": "#2a6496",
    "pale": "#a9c3d8",
    "rust": "#b5541c",
    "line1": "#1f6aa5",
    "line2": "#c2541a",
    "line3": "#2e8b57",
    "line4": "#8a4fb0",
    "line5": "#b0830a",
    "line6": "#c23b6b",
    "line7": "#2f8c9c",
    "line8": "#6b6b2f",
}
DARK = {
    "paper": "#15181c",
    "card": "#1d2126",
    "ink": "#e4e6e8",
    "soft": "#9aa2ab",
    "line": "#343a41",
    "blue": "#7db4e0",
    "pale": "#527a9a",
    "rust": "#e89464",
    "line1": "#6fb1e8",
    "line2": "#f0905a",
    "line3": "#62c792",
    "line4": "#c394e6",
    "line5": "#e3b94a",
    "line6": "#f07fa6",
    "line7": "#6cc5d4",
    "line8": "#b5b56a",
}


def draw_learning(
    losses: Sequence[tuple[int, float]],
    stride: int,
    smooth: int,
    scores: Sequence[tuple[int, float]],
    metric: str,
    width: float = WIDE,
) -> str:
    """Training loss (a dot every `stride` steps, running mean over `smooth`), and below it the dev score, by step."""
    figure, (above, below) = panels(width, 4.6, (3, 2), sharex=True)
    shown = losses[::stride]
    above.plot([x for x, _ in shown], [y for _, y in shown], ".", color=LIGHT["pale"], markersize=4)
    above.plot([x for x, _ in losses], _smoothed([y for _, y in losses], smooth), color=LIGHT["blue"], linewidth=1.8)
    above.set_ylabel("training loss")
    points = [(step, 100 * score) for step, score in scores]
    below.plot(*zip(*points, strict=True), "o-", color=LIGHT["rust"], linewidth=1.2, markersize=5)
    most = 12 if width == WIDE else 5
    for x, y in points if len(points) <= most else (points[0], points[-1]):
        below.annotate(f"{y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", color=LIGHT["rust"])
    below.margins(y=0.3)
    below.set_ylabel(f"dev {plain(metric)}, %")
    below.set_xlabel("step")
    whole_numbers(below.xaxis)
    return as_svg(figure, f"learning{width:g}")


def draw_memory(
    place: str,
    phases: Sequence[tuple[str, int, str]],
    at: str,
    owners: Sequence[tuple[str, int, str]],
    inference: int,
    width: float = WIDE,
) -> str:
    """Bars of (name, bytes, colour): peaks of phases; below, owners stacked up to the peak of phase `at`."""
    letters = 28 if width == WIDE else 15
    names = [[fill(plain(name), letters) for name, _, _ in bars] for bars in (phases, owners)]
    heights = [0.6 + sum(0.45 + 0.55 * text.count("\n") + 0.55 for text in some) for some in names]
    figure, (above, below) = panels(width, 0.27 * sum(heights) + 0.9, heights, sharex=True)
    stacked = [0, *accumulate(size for _, size, _ in owners[:-1])]
    for axes, bars, texts, starts in ((above, phases, names[0], [0] * len(phases)), (below, owners, names[1], stacked)):
        draw_bars(axes, texts, [(start, size, colour) for start, (_, size, colour) in zip(starts, bars, strict=True)])
        axes.axvline(inference / 2**20, color=LIGHT["rust"], linewidth=1, linestyle=(0, (4, 3)))
    room = 1.16 if width == WIDE else 1.45
    above.set_xlim(0, room * max(size for _, size, _ in phases) / 2**20)
    above.set_title(f"peak of each phase, {place}", loc="left")
    below.set_title(fill(f"what the peak of '{plain(at)}' is made of", letters + 12), loc="left")
    below.set_xlabel("MiB")
    return as_svg(figure, f"memory-{place}{width:g}")


def draw_bars(
    axes: Any, names: Sequence[str], bars: Sequence[tuple[int, int, str]], labels: Sequence[str] = ()
) -> None:
    """One bar a name, top down, in MiB: (first byte, bytes, colour), with its size or a label of its own after it."""
    axes.barh(
        range(len(names)),
        [size / 2**20 for _, size, _ in bars],
        left=[start / 2**20 for start, _, _ in bars],
        color=[LIGHT[colour] for _, _, colour in bars],
        height=0.62,
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for row, (start, size, _) in enumerate(bars):
        axes.annotate(
            labels[row] if labels else readable(size),
            ((start + size) / 2**20, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=LIGHT["soft"],
            fontsize=8.5,
        )


def readable(count: float) -> str:
    """Bytes with a unit: whole MiB from 10 MiB, one decimal from 1 MiB, KiB below."""
    mebibytes = count / 2**20
    if mebibytes >= 10:
        return f"{mebibytes:,.0f} MiB"
    return f"{mebibytes:.1f} MiB" if mebibytes >= 1 else f"{count / 2**10:,.0f} KiB"


def plain(name: str) -> str:
    """A name that somebody chose, as matplotlib and SVG take it: no mathematics, no control characters, not long."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return shorten(printable, 60, placeholder="…").replace("$", r"\$")


def whole_numbers(axis: Any) -> None:
    """Ticks of an axis at whole numbers only, with commas between thousands."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def panels(width: float, height: float, ratios: Sequence[float], sharex: bool = False) -> tuple[Any, list[Any]]:
    """A figure and its panels, one above the other.

    Args:
        width: in inches.
        height: in inches.
        ratios: of the heights of the panels.
        sharex: whether they have one horizontal axis.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ZoplatError(
            "A report needs matplotlib for its figures, and it is not installed. Get it with\n  pip install matplotlib"
        ) from None
    ink = {"text.color": "ink", "axes.titlecolor": "ink", "axes.labelcolor": "soft", "axes.edgecolor": "line"}
    ink |= {"xtick.color": "line", "ytick.color": "line", "grid.color": "line", "figure.facecolor": "paper"}
    style: dict[str, Any] = {name: LIGHT[colour] for name, colour in ink.items()}
    style |= {"xtick.labelcolor": LIGHT["soft"], "ytick.labelcolor": LIGHT["ink"], "axes.facecolor": LIGHT["paper"]}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True}
    style |= {"font.size": 9.5, "axes.titlesize": 10, "grid.linewidth": 0.6, "axes.spines.left": False}
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        made = figure.subplots(len(ratios), 1, sharex=sharex, height_ratios=ratios, squeeze=False)
        return figure, [*made[:, 0]]


def as_svg(figure: Any, name: str) -> str:
    """The figure as SVG text, byte for byte the same for the same figure; names inside begin with `name`."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return re.sub(r"'?DejaVu Sans'?(?:, [^;\"]*)?", "DejaVu Sans, system-ui, sans-serif", svg)


def _smoothed(values: Sequence[float], width: int) -> list[float]:
    """Running means over `width` values around each, fewer at the ends."""
    sums, n, half = [0.0, *accumulate(values)], len(values), width // 2
    spans = ((max(0, i - half), min(n, i + half + 1)) for i in range(n))
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in spans]
