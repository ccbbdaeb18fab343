"""The figures of a report, drawn with matplotlib as SVG in the light colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import accumulate
from textwrap import fill, shorten
from typing import Any

from zoplat.core.errors import ZoplatError

LIGHT = {
    "paper": "#fcfcfa",
    "card": "#f3f3ef",
    "ink": "#22262b",
    "soft": "#666d76",
    "line": "#dcdcd6",
    "blue": "#2a6496",
    "pale": "#a9c3d8",
    "rust": "#b5541c",
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
}


def draw_learning(
    losses: Sequence[tuple[int, float]], stride: int, width: int, scores: Sequence[tuple[int, float]], metric: str
) -> str:
    """Training loss (a dot every `stride` steps, running mean over `width`), and below it the dev score, by step."""
    figure, (above, below) = _panels(4.6, (3, 2))
    shown = losses[::stride]
    above.plot([x for x, _ in shown], [y for _, y in shown], ".", color=LIGHT["pale"], markersize=4)
    above.plot([x for x, _ in losses], _smoothed([y for _, y in losses], width), color=LIGHT["blue"], linewidth=1.8)
    above.set_ylabel("training loss")
    points = [(step, 100 * score) for step, score in scores]
    below.plot(*zip(*points, strict=True), "o-", color=LIGHT["rust"], linewidth=1.2, markersize=5)
    for x, y in points if len(points) <= 12 else (points[0], points[-1]):
        below.annotate(f"{y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", color=LIGHT["rust"])
    below.margins(y=0.3)
    below.set_ylabel(f"dev {_plain(metric)}, %")
    below.set_xlabel("step")
    return _svg(figure, "learning")


def draw_memory(
    place: str, phases: Sequence[tuple[str, int, str]], at: str, owners: Sequence[tuple[str, int, str]], inference: int
) -> str:
    """Bars of (name, bytes, colour): peaks of phases; below, owners stacked up to the peak of phase `at`."""
    heights = (len(phases) + 0.6, len(owners) + 0.6)
    figure, (above, below) = _panels(0.27 * sum(heights) + 0.9, heights)
    stacked = [0, *accumulate(size for _, size, _ in owners[:-1])]
    for axes, bars, starts in ((above, phases, [0] * len(phases)), (below, owners, stacked)):
        axes.barh(
            [fill(_plain(name), 28) for name, _, _ in bars],
            [size / 2**20 for _, size, _ in bars],
            left=[start / 2**20 for start in starts],
            color=[LIGHT[colour] for _, _, colour in bars],
            height=0.62,
        )
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.axvline(inference / 2**20, color=LIGHT["rust"], linewidth=1, linestyle=(0, (4, 3)))
        for row, (start, (_, size, _)) in enumerate(zip(starts, bars, strict=True)):
            axes.annotate(
                readable(size),
                ((start + size) / 2**20, row),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=LIGHT["soft"],
                fontsize=8.5,
            )
    above.set_xlim(0, 1.16 * max(size for _, size, _ in phases) / 2**20)
    above.set_title(f"peak of each phase, {place}", loc="left")
    below.set_title(f"what the peak of '{_plain(at)}' is made of", loc="left")
    below.set_xlabel("MiB")
    return _svg(figure, f"memory-{place}")


def readable(count: float) -> str:
    """Bytes with a unit: whole MiB from 10 MiB, one decimal from 1 MiB, KiB below."""
    mebibytes = count / 2**20
    if mebibytes >= 10:
        return f"{mebibytes:,.0f} MiB"
    return f"{mebibytes:.1f} MiB" if mebibytes >= 1 else f"{count / 2**10:,.0f} KiB"


def _plain(name: str) -> str:
    """A name that somebody chose, as matplotlib and SVG take it: no mathematics, no control characters, not long."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return shorten(printable, 60, placeholder="…").replace("$", r"\$")


def _panels(height: float, ratios: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and its two panels, one above the other."""
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
        figure = Figure(figsize=(7.4, height), layout="constrained")
        return figure, figure.subplots(2, 1, sharex=True, height_ratios=ratios)


def _svg(figure: Any, name: str) -> str:
    """The figure as SVG text, byte for byte the same for the same figure."""
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
