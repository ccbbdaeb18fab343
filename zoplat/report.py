"""A run as two pages: report.html, which needs nothing beside it, and report.md with its figures as files.

Everything on them is read from the run directory, so a report can be made again at any time and anywhere.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from textwrap import fill
from typing import Any, TypeAlias

from zoplat.errors import ZoplatError
from zoplat.journal import Journal
from zoplat.paths import check_writable, replace_text
from zoplat.results import RunDirectory, read_lines

MEANING = {
    "open": "loading libraries and the model",
    "inference": "forward passes on the longest rows, before training: the memory yardstick",
    "forward": "forward passes that training asked for",
    "move": "perturbing weights, taking probes back, applying updates",
    "rule": "kernels of step rules that visit every weight",
    "yardstick": "bare forward passes, timed for the overhead ratio",
    "evaluate": "scoring the dev and test splits",
    "checkpoint": "writing checkpoints and digests",
    "other": "between phases: data, journal, bookkeeping",
}
LIBRARIES = {"python, torch and transformers", "noise kernels"}
"""Owners of host memory, wherever the weights are."""
WEIGHTS = {"weights", "trainable weights", "frozen weights"}
"""Owners that inference has as well."""
REST = "forward pass and allocator"
POINTS = 1000  # losses drawn one by one; more are thinned

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


@dataclass(frozen=True)
class Scores:
    """Before and after, by split: (split, before, after, rows)."""

    metric: str
    splits: list[tuple[str, float, float, int]]


@dataclass(frozen=True)
class Rows:
    """A table; columns after the first `words` are numbers and stand to the right."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure as SVG in the light colours, with the words that stand below it."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Listing:
    """Text as it stands in a file or a terminal."""

    text: str
    language: str


Part: TypeAlias = "str | Scores | Rows | Picture | Listing"


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: list[Part]


@dataclass(frozen=True)
class Account:
    """What the files of a finished run say."""

    directory: RunDirectory
    summary: dict[str, Any]
    environment: dict[str, Any]
    settings: str
    metrics: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    losses: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def read(cls, directory: RunDirectory) -> Account:
        """Read the run; raises ZoplatError when it is not finished or its journal is damaged."""
        summary = directory.read_summary()
        if not summary:
            raise ZoplatError(
                f"{directory.path} is not finished: it has no summary.json. "
                f"`zoplat run --resume --out {shlex.quote(str(directory.path))}` goes on to the end."
            )
        finite = (
            (record.step, [answer for answer in record.answers if math.isfinite(answer)])
            for record in Journal.read(directory.journal).steps
        )
        return cls(
            directory,
            summary,
            json.loads(directory.environment.read_text(encoding="utf-8")),
            directory.config.read_text(encoding="utf-8"),
            directory.read_metrics(),
            read_lines(directory.memory),
            [(step, sum(answers) / len(answers)) for step, answers in finite if answers],
        )

    @property
    def title(self) -> str:
        """Method, task, model, seed and the day it ended."""
        s, day = self.summary, datetime.fromtimestamp(self.directory.summary.stat().st_mtime)
        return f"{s['estimator']} on {s['task']} · {s['model']} · seed {s['seed']} · {day:%Y-%m-%d}"

    @property
    def places(self) -> list[str]:
        """Where memory was counted: the device first, if it has its own."""
        return [place for place in ("device", "host") if self.summary["peak_bytes"].get(place)]

    @property
    def phases(self) -> list[dict[str, Any]]:
        """Rows of phases, in the order of MEANING."""
        order = list(MEANING)
        rows = [row for row in self.memory if row["kind"] == "phase"]
        return sorted(rows, key=lambda row: order.index(row["phase"]) if row["phase"] in order else len(order))

    def inference(self, place: str) -> int:
        """Peak of the inference phase."""
        measured = [row[f"{place}_peak"] for row in self.phases if row["phase"] == "inference"]
        return int(measured[0] if measured else self.summary["inference_peak_bytes"][place])

    def training(self, place: str) -> tuple[str, int]:
        """The phase with the highest peak once the model was open and inference measured, and that peak."""
        later = [row for row in self.phases if row["phase"] not in ("open", "inference")]
        row = max(later, key=lambda row: row[f"{place}_peak"] or 0)
        return row["phase"], row[f"{place}_peak"] or 0

    def owners(self, place: str) -> list[tuple[str, int]]:
        """(owner, bytes) of what is held in a place, nothing left out but zeros."""
        rows = [(row["owner"], row["bytes"]) for row in self.memory if row["kind"] == "owner" and row["bytes"]]
        if len(self.places) == 1:
            return rows
        return [row for row in rows if (row[0] in LIBRARIES) == (place == "host")]


def write(directory: RunDirectory, to: Path) -> list[Path]:
    """Write report.html, report.md and the figures of the latter to a folder; returns the files.

    Raises:
        ZoplatError: the run is not finished, matplotlib is missing, or `to` can't be written.
    """
    account = Account.read(directory)
    check_writable(to, "--to")
    sections = _sections(account)
    pictures = [part for section in sections for part in section.parts if isinstance(part, Picture)]
    files = {"report.html": _page(account.title, sections), "report.md": _markdown(account.title, sections)}
    files |= {f"report-{picture.name}.svg": picture.svg for picture in pictures}
    to.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(to / name, text)
    return [to / name for name in files]


def _sections(account: Account) -> list[Section]:
    return [
        Section("Score", [_scores(account), _certainty(account)]),
        Section("Learning", [_learning(account)]),
        Section("Memory", [make(account, place) for place in account.places for make in (_memory, _difference)]),
        Section("Cost", [_cost(account), _overhead(account), _by_phase(account)]),
        Section("Doing it again", _again(account)),
        Section("Settings", [Listing(account.settings.strip(), "toml")]),
        Section("Environment", [_environment(account)]),
    ]


def _scores(account: Account) -> Scores:
    s, rows = account.summary, {record["split"]: record["rows"] for record in account.metrics}
    splits = [(split, s[f"{split}_before"], s[f"{split}_after"], rows.get(split, 0)) for split in ("test", "dev")]
    return Scores(s["metric"], splits)


def _certainty(account: Account) -> str:
    text = "The settings were chosen without the test split; it was scored before and after, never in between."
    _, _, after, rows = _scores(account).splits[0]
    if account.summary["metric"] == "accuracy" and rows:
        error = math.sqrt(after * (1 - after) / rows)
        text = (
            f"On {rows} test rows, the last score has a standard error of {100 * error:.1f} points. This is one seed."
        )
    if any(record["kept"] for record in account.metrics):
        text += " The first scores were kept from an earlier run that began from the same weights and data."
    return text


def _difference(account: Account, place: str) -> str:
    """The peak of training less that of inference, owner by owner."""
    (at, peak), inference = account.training(place), account.inference(place)
    more = peak - inference
    text = (
        f"Once the model was open, inference on the longest rows peaked at {_size(inference)} of {place} memory and "
        f"training at {_size(peak)} (phase `{at}`): "
    )
    if more <= 0:
        text += "training needed no more than inference."
    else:
        named = [(owner, size) for owner, size in account.owners(place) if owner not in LIBRARIES | WEIGHTS]
        text += f"{_size(more)} more, or {more / inference:.1%}. Of these, {_attributed(named, more)}"
    opening = next((row[f"{place}_peak"] for row in account.phases if row["phase"] == "open"), None) or 0
    if opening > peak:
        text += (
            f" Opening the model took {_size(opening)} for a moment, more than anything after it; `peak_bytes` and "
            "`inference_peak_bytes` in summary.json include that moment."
        )
    if account.environment.get("memory_counter") == "sampled" and place == "host":
        text += " The system let no peak be reset, so peaks were sampled every 10 ms and may miss short ones."
    return text


def _attributed(named: Sequence[tuple[str, int]], more: int) -> str:
    booked = ", ".join(f"{_size(size)} of {owner}" for owner, size in named) or "nothing"
    rest = more - sum(size for _, size in named)
    if rest < 0:
        return f"the ledger books {booked}; that is more than the difference, so part of it took over free memory."
    return (
        f"the ledger books {booked}; {_size(rest)} has no owner in it: working memory that the runtime keeps for "
        "batches of other shapes, short-lived copies, spare pages of the allocator."
    )


def _cost(account: Account) -> Rows:
    s = account.summary
    rows = [
        ("steps", f"{s['steps']:,}"),
        ("steps skipped, the loss not being finite", f"{s['skipped_steps']:,}"),
        ("forward passes of training", f"{s['forward_passes']:,}"),
        ("forward passes of evaluation", f"{s['evaluation_passes']:,}"),
        ("seconds in all", f"{s['seconds']:,.1f}"),
        ("seconds of training", f"{s['seconds_training']:,.1f}"),
        ("overhead ratio", f"{s['overhead_ratio']:.2f}" if s["overhead_ratio"] else "–"),
        ("passes over the trainable weights", f"{s['passes_over_weights']:,}"),
        ("drift of the weights, ‖W − θ‖ / ‖θ‖", f"{s['drift']:.1e}"),
        ("trainable weights", f"{s['trainable_parameters']:,}"),
        ("all weights of the model", _size(s["model_bytes"]) if s["model_bytes"] else "–"),
        ("the loss, last fifth against first", str(s["verdict"])),
    ]
    return Rows(("", ""), rows)


def _overhead(account: Account) -> str:
    return (
        "The overhead ratio is the time of sampled steps over (their forward passes × the time of a bare forward pass "
        "on the same batch): what perturbing and updating cost on top, 1 being nothing. Drift is how far rounding has "
        "carried the stored weights from the exact sum of their updates, on a sample of rows."
    )


def _by_phase(account: Account) -> Rows:
    total = sum(row["seconds"] for row in account.phases) or 1.0
    places = account.places
    body = []
    for row in account.phases:
        peaks = [row[f"{place}_peak"] for place in places]
        body.append(
            [
                row["phase"],
                MEANING.get(row["phase"], ""),
                f"{row['calls']:,}" if row["calls"] else "",
                f"{row['seconds']:,.1f}",
                f"{row['seconds'] / total:.0%}",
                *(_size(peak) if peak else "–" for peak in peaks),
            ]
        )
    peak_heads = [f"peak, {place}" for place in places]
    return Rows(("phase", "what happens in it", "calls", "seconds", "share", *peak_heads), body, words=2)


def _again(account: Account) -> list[Part]:
    run = str(account.directory.path)
    config, fresh = shlex.quote(f"{run}/config.toml"), shlex.quote(f"{run}-again")
    return [
        Listing(f"zoplat run --config {config} --out {fresh}", "sh"),
        "repeats the run, and on the same versions, device and number of threads ends with these trainable weights:",
        Listing(account.summary["weights_digest"], "text"),
        "The journal rebuilds them without a forward pass:",
        Listing(f"zoplat replay {shlex.quote(run)} --to {shlex.quote(run + '-weights')}", "sh"),
    ]


def _environment(account: Account) -> Rows:
    facts: list[tuple[str, str]] = []
    for name, value in account.environment.items():
        if isinstance(value, dict):
            facts.append((name, ", ".join(f"{key} {part}" for key, part in value.items())))
        elif value is not None:
            facts.append((name, str(value)))
    return Rows(("", ""), facts, words=2)


def _learning(account: Account) -> Picture:
    """Loss by step above, dev score by step below."""
    losses, dev = account.losses, [r for r in account.metrics if r["split"] == "dev"]
    width = max(5, len(losses) // 12)
    stride = -(-len(losses) // POINTS) or 1
    figure, (above, below) = _figure(2, 4.6, sharex=True, height_ratios=(3, 2))
    shown = losses[::stride]
    above.plot([x for x, _ in shown], [y for _, y in shown], ".", color=LIGHT["pale"], markersize=4)
    above.plot([x for x, _ in losses], _smoothed([y for _, y in losses], width), color=LIGHT["blue"], linewidth=1.8)
    above.set_ylabel("training loss")
    points = [(record["step"], 100 * record["score"]) for record in dev]
    below.plot(*zip(*points, strict=True), "o-", color=LIGHT["rust"], linewidth=1.2, markersize=5)
    for x, y in points if len(points) <= 12 else (points[0], points[-1]):
        below.annotate(f"{y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", color=LIGHT["rust"])
    below.margins(y=0.3)
    below.set_ylabel(f"dev {account.summary['metric']}, %")
    below.set_xlabel("step")
    thinned = f", one in {stride} of them drawn" if stride > 1 else ""
    return Picture(
        "learning",
        _svg(figure, "learning"),
        f"Above: the mean of the losses that each step saw, on its own batch of training rows{thinned}; the line is "
        f"a running mean over {width} steps. Below: {account.summary['metric']} on the dev split.",
    )


def _memory(account: Account, place: str) -> Picture:
    """Peaks by phase above; below, the owners one after the other up to the highest peak."""
    (at, peak), inference = account.training(place), account.inference(place)
    phases = [row for row in account.phases if row[f"{place}_peak"]]
    owners = account.owners(place)
    rest = peak - sum(size for _, size in owners)
    if rest > 0:
        owners = [*owners, (REST, rest)]
    heights = (len(phases) + 0.6, len(owners) + 0.6)
    figure, (above, below) = _figure(2, 0.27 * sum(heights) + 0.9, sharex=True, height_ratios=heights)
    names = [row["phase"] for row in phases]
    peaks = [row[f"{place}_peak"] / 2**20 for row in phases]
    colours = [LIGHT["rust"] if name == "inference" else LIGHT["blue"] for name in names]
    above.barh(names, peaks, color=colours, height=0.62)
    starts = [start / 2**20 for start in accumulate((size for _, size in owners[:-1]), initial=0)]
    sizes = [size / 2**20 for _, size in owners]
    labels = [fill(owner, 28) for owner, _ in owners]
    shades = [LIGHT["pale"] if owner == REST else LIGHT["blue"] for owner, _ in owners]
    below.barh(labels, sizes, left=starts, color=shades, height=0.62)
    for axes, ends, values in (
        (above, peaks, peaks),
        (below, [a + b for a, b in zip(starts, sizes, strict=True)], sizes),
    ):
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.axvline(inference / 2**20, color=LIGHT["rust"], linewidth=1, linestyle=(0, (4, 3)))
        for row, (end, value) in enumerate(zip(ends, values, strict=True)):
            axes.annotate(
                _size(value * 2**20),
                (end, row),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=LIGHT["soft"],
                fontsize=8.5,
            )
    above.set_xlim(0, 1.16 * max(peaks))
    above.set_title(f"peak of each phase, {place}", loc="left")
    below.set_title(f"what the peak of '{at}' is made of", loc="left")
    below.set_xlabel("MiB")
    return Picture(
        "memory" if place == account.places[0] else f"memory-{place}",
        _svg(figure, f"memory-{place}"),
        "The broken line is the peak of inference. Owners are what the ledger has booked, read when the run "
        f"ended; '{REST}' is that peak less their sum.",
    )


def _figure(panels: int, height: float, **layout: Any) -> tuple[Any, Any]:
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
        return figure, figure.subplots(
            panels, 1, sharex=layout.get("sharex", False), height_ratios=layout["height_ratios"]
        )


def _svg(figure: Any, name: str) -> str:
    """The figure as SVG text, the same for the same figure."""
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


def _size(count: float) -> str:
    """Bytes for people: two digits or more, MiB throughout where that is readable."""
    mebibytes = count / 2**20
    if mebibytes >= 10:
        return f"{mebibytes:,.0f} MiB"
    return f"{mebibytes:.1f} MiB" if mebibytes >= 1 else f"{count / 2**10:,.0f} KiB"


def _markdown(title: str, sections: Iterable[Section]) -> str:
    lines = [f"# {title}"]
    for section in sections:
        lines += [f"## {section.title}", *(_as_markdown(part) for part in section.parts)]
    return "\n\n".join(lines) + "\n"


def _as_markdown(part: Part) -> str:
    match part:
        case Scores():
            body = [
                (split, f"{before:.1%}", f"**{after:.1%}**", f"{100 * (after - before):+.1f}")
                for split, before, after, _ in part.splits
            ]
            return _as_markdown(Rows((part.metric, "before", "after", "points"), body))
        case Rows():
            marks = ["---" if i < part.words else "---:" for i in range(len(part.head))]
            cells = [part.head, marks, *part.body]
            return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
        case Picture():
            return f"![{part.name}](report-{part.name}.svg)\n\n*{part.caption}*"
        case Listing():
            return f"```{part.language}\n{part.text}\n```"
        case _:
            return part


def _page(title: str, sections: Sequence[Section]) -> str:
    body = "\n".join(
        f"<section>\n<h2>{html.escape(section.title)}</h2>\n{chr(10).join(_as_html(part) for part in section.parts)}"
        "\n</section>"
        for section in sections
    )
    heading, _, rest = title.partition(" · ")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>
:root {{ {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{html.escape(heading)}</h1>
<p>{html.escape(rest)}</p>
</header>
{body}
</main>
</body>
</html>
"""


def _as_html(part: Part) -> str:
    match part:
        case Scores():
            cards = "".join(
                f"<div><dt>{html.escape(split)} {html.escape(part.metric)}</dt>"
                f"<dd><span>{before:.1%}</span> → <b>{after:.1%}</b></dd>"
                f"<dd>{100 * (after - before):+.1f} points, {rows:,} rows</dd></div>"
                for split, before, after, rows in part.splits
            )
            return f'<dl class="scores">{cards}</dl>'
        case Rows():
            facts = "" if any(part.head) else " class=facts"
            head = f"<thead>{_row(part.head, 'th', part.words)}</thead>" if any(part.head) else ""
            body = "\n".join(_row(row, "td", part.words) for row in part.body)
            return f'<div class="wide"><table{facts}>{head}<tbody>\n{body}\n</tbody></table></div>'
        case Picture():
            return (
                f'<figure role="group">{_inline(part.svg, part.name)}'
                f"<figcaption>{html.escape(part.caption)}</figcaption></figure>"
            )
        case Listing():
            return f"<pre><code>{html.escape(part.text)}</code></pre>"
        case _:
            marked = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(part))
            return f"<p>{marked}</p>"


def _row(cells: Sequence[str], tag: str, words: int) -> str:
    made = "".join(
        f"<{tag}{'' if i < words else ' class=number'}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(cells)
    )
    return f"<tr>{made}</tr>"


def _inline(svg: str, name: str) -> str:
    """The figure for a page that knows its colours by name."""
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height)="[^"]*"', "", svg[svg.index("<svg") :], count=4)
    for colour, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{colour})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(name)}"', 1)


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 50rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
header p { margin: 0.35rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 0.8rem; }
p { margin: 0.8rem 0; }
.scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; margin: 0; }
.scores > div { background: var(--card); border-radius: 8px; padding: 1rem 1.25rem; }
.scores dt, .scores dd + dd { color: var(--soft); font-size: 0.9rem; }
.scores dd { margin: 0; font-size: 1.6rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
.scores b { color: var(--blue); font-weight: 650; }
.scores span { color: var(--soft); }
figure { margin: 0 0 1.6rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: system-ui, sans-serif !important; }
figcaption { color: var(--soft); font-size: 0.875rem; margin-top: 0.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: 0.32rem 1rem 0.32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { white-space: nowrap; }
.facts { width: auto; min-width: 55%; }
.facts td:last-child { min-width: 6rem; }
th:last-child, td:last-child { padding-right: 0; }
td { overflow-wrap: anywhere; }
th + th:not(.number) { min-width: 13rem; }
.number { text-align: right; white-space: nowrap; }
pre { background: var(--card); border-radius: 8px; padding: 0.9rem 1.1rem; overflow-x: auto; }
code { font: 0.875em/1.5 ui-monospace, monospace; }
@media print { main { max-width: none; padding: 0; } section { break-inside: avoid; } }
"""
