"""The layout of a report: its parts as Markdown, and as one self-contained HTML page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

from zoplat.report.figures import DARK, LIGHT


@dataclass(frozen=True)
class Scores:
    """Scores before and after training.

    Attributes:
        metric: its name.
        splits: (split, before, after, rows), scores in [0, 1].
    """

    metric: str
    splits: list[tuple[str, float, float, int]]


@dataclass(frozen=True)
class Rows:
    """A table; the first `words` columns are text, the others numbers, aligned to the right."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure as SVG in the light colours, with its caption."""

    name: str
    svg: str
    caption: str

    @property
    def file(self) -> str:
        """Name of its file beside report.md."""
        return f"report-{self.name}.svg"


@dataclass(frozen=True)
class Listing:
    """Preformatted text, such as a file or a command."""

    text: str
    language: str


Part: TypeAlias = "str | Scores | Rows | Picture | Listing"


@dataclass(frozen=True)
class Section:
    """A heading and the parts under it."""

    title: str
    parts: list[Part]


def markdown(title: str, sections: Iterable[Section]) -> str:
    """The text of report.md."""
    lines = [f"# {_literal(title)}"]
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
            return "\n".join(f"| {' | '.join(map(_as_cell, row))} |" for row in cells)
        case Picture():
            return f"![{part.name}]({part.file})\n\n*{_literal(part.caption)}*"
        case Listing():
            fence = "`" * (1 + max([2, *map(len, re.findall("`+", part.text))]))
            return f"{fence}{part.language}\n{part.text}\n{fence}"
        case _:
            return html.escape(part, quote=False)


def _as_cell(text: str) -> str:
    """A cell of a table: literal, but for the marks that align a column and make a score bold."""
    return text if re.fullmatch(r"-+:?|\*\*[0-9.,%]+\*\*", text) else _literal(text)


def _literal(text: str) -> str:
    """Text that somebody chose, so that Markdown shows it as it is: no HTML, no link, no markup, one line."""
    escaped = re.sub(r"([\\`*\[\]|])|(?<!\w)_|_(?!\w)", lambda found: f"\\{found[0]}", " ".join(text.split()))
    return html.escape(escaped, quote=False)


def page(title: str, sections: Iterable[Section]) -> str:
    """The text of report.html."""
    body = "\n".join(
        f"<section>\n<h2>{html.escape(section.title)}</h2>\n{chr(10).join(_as_html(part) for part in section.parts)}"
        "\n</section>"
        for section in sections
    )
    style = resources.files("zoplat.report").joinpath("style.css").read_text(encoding="utf-8")
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

{style}</style>
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
            table_class = "" if any(part.head) else " class=facts"
            head = f"<thead>{_row(part.head, 'th', part.words)}</thead>" if any(part.head) else ""
            body = "\n".join(_row(row, "td", part.words) for row in part.body)
            return f'<div class="wide"><table{table_class}>{head}<tbody>\n{body}\n</tbody></table></div>'
        case Picture():
            return (
                f'<figure role="group">{_inline(part.svg, part.name)}'
                f"<figcaption>{html.escape(part.caption)}</figcaption></figure>"
            )
        case Listing():
            return f"<pre><code>{html.escape(part.text)}</code></pre>"
        case _:
            text = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(part))
            return f"<p>{text}</p>"


def _row(cells: Sequence[str], tag: str, words: int) -> str:
    html_cells = "".join(
        f"<{tag}{'' if i < words else ' class=number'}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(cells)
    )
    return f"<tr>{html_cells}</tr>"


def _inline(svg: str, name: str) -> str:
    """The SVG with the page's colour variables in place of colours, so that it follows light and dark mode."""
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height)="[^"]*"', "", svg[svg.index("<svg") :], count=4)
    for colour, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{colour})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(name)}"', 1)


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
