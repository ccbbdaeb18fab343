"""The page of a proof of concept: poc.html, poc.md and poc.json, and the same in short for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from zoplat.comparison.decision import ALPHA, GAIN, Tried, hours_text
from zoplat.comparison.poc import Poc
from zoplat.core.plain_json import to_text
from zoplat.paths import replace_text
from zoplat.report.figures import WIDE, readable
from zoplat.report.pages import Listing, Part, Rows, Section, markdown, page
from zoplat.report.study.memory import memory_parts
from zoplat.report.study.scores import percent
from zoplat.report.study.stored import opened

MEANING = {
    "go": "Go: fine-tuning by forward passes works here",
    "no-go": "No-go: fine-tuning by forward passes is not worth it here",
    "can't tell": "Can't tell yet whether fine-tuning by forward passes is worth it here",
}
"""Verdict → title."""


def write(poc: Poc) -> list[Path]:
    """Write the three files and the figures of the Markdown; returns their paths, the page first."""
    sections, title = _sections(poc), f"{MEANING[poc.decision.verdict]} · {poc.facts['model']} · {poc.facts['task']}"
    files = {
        "poc.html": page(title, sections),
        "poc.md": markdown(title, sections),
        "poc.json": to_text(poc.to_json(), indent=1) + "\n",
    }
    files |= {picture.file: picture.draw(WIDE) for section in sections for picture in section.pictures}
    for name, text in files.items():
        replace_text(poc.folder / name, text)
    return [poc.folder / name for name in files]


def as_text(poc: Poc) -> str:
    """Verdict, reasons, costs and commands for the terminal."""
    lines = [
        f"{MEANING[poc.decision.verdict]}.",
        *(f"  {reason}" for reason in poc.decision.reasons),
        "",
        "A full run:",
    ]
    lines += [f"  {_full_in_words(one)}" for one in poc.tried if one.full_passes] or ["  nothing to tell it from"]
    for does, command in poc.commands:
        lines += ["", does, f"  {command}"]
    return "\n".join(lines) + "\n"


def _full_in_words(one: Tried) -> str:
    hours, cost = hours_text(one.full_hours), _number(one.full_cost, 2)
    peak = readable(one.peak) if one.peak else "not measured"
    return f"{one.label}: {one.full_passes:,} passes, hours {hours}, cost {cost}, peak memory {peak}"


def _sections(poc: Poc) -> list[Section]:
    return [
        Section("Why", [*poc.decision.reasons]),
        Section("Scores", [_scores(poc.tried), _on_scores(poc)]),
        Section("A full run", _full(poc)),
        Section("Memory", _memory(poc)),
        Section("Going on", [part for does, line in poc.commands for part in (does, Listing(line, "sh"))]),
        Section("What was tried where", [Rows(("", ""), [*poc.facts.items()])]),
    ]


def _scores(tried: Sequence[Tried]) -> Rows:
    head = ("what", "outlook", "before, %", "after, %", "rows won", "rows lost", "p")
    body = []
    for one in tried:
        test = one.test
        won = (f"{test.won:,}", f"{test.lost:,}", f"{test.p:.3f}") if test else ("–",) * 3
        word = "failed" if one.reason else one.outlook or "not trained"
        scores = ("–" if share is None else percent(share) for share in (one.before, one.score))
        body.append((one.label, word, *scores, *won))
    return Rows(head, body, words=2)


def _on_scores(poc: Poc) -> str:
    rows = max((one.test.rows for one in poc.tried if one.test), default=0)
    split = f"On the {rows:,} rows of the test split." if rows else "On the test split."
    return (
        f"{split} A row is won that was wrong before training and is right after it, and lost the "
        "other way round; p is that of McNemar's test on them, before it is adjusted for several methods. Go needs an "
        f"adjusted p below {ALPHA} and a gain of {100 * GAIN:.0f} points. One seed: another one may differ."
    )


def _full(poc: Poc) -> list[Part]:
    ended = [one for one in poc.tried if one.full_passes]
    if not ended:
        return ["Nothing was trained to its end, so nothing is known of a full run."]
    head = (
        "what",
        "passes tried",
        "seconds",
        "passes of a full run",
        "hours",
        "cost",
        "kJ",
        "peak memory",
        "over inference",
    )
    body = [
        (
            one.label,
            f"{one.passes:,}",
            _number(one.seconds, 1),
            f"{one.full_passes:,}",
            hours_text(one.full_hours),
            _number(one.full_cost, 2),
            _number(None if one.full_joules is None else one.full_joules / 1000, 1),
            readable(one.peak) if one.peak else "–",
            readable(max(0, one.peak - one.inference)) if one.peak and one.inference else "–",
        )
        for one in ended
    ]
    price = "No price of an hour was given." if poc.plan.price is None else f"At {poc.plan.price:g} an hour."
    return [
        Rows(head, body),
        f"Hours are those of the passes at the pace of the short run, and once what it took beside its steps. {price} "
        f"Energy: {poc.energy}.",
    ]


def _memory(poc: Poc) -> list[Part]:
    """Peaks beside inference and backpropagation, as reports of comparisons have them."""
    places = sorted({Path(one.directory).parent for one in poc.tried if one.peak})
    if not places or not find_spec("matplotlib"):
        return ["Nothing was measured." if not places else "See the table above; the figure needs matplotlib."]
    return memory_parts(opened(places))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
