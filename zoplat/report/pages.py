"""The layout of a report: its parts as Markdown, and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import TypeAlias

from zoplat.report.figures import DARK, LIGHT, NARROW, WIDE

LONG = 24
"""Letters of a cell that, on a telephone, does not stand on one line with its heading."""
STYLE = "style.css"
INCLUDED = (STYLE, "sort.js")
WIDTHS = {"wide": WIDE, "narrow": NARROW}
"""Class of a figure → inches: a page has each figure twice, and shows the one that fits."""
WITHIN = ".zoplat-report" * 3
"""Selects a piece in a notebook, above the styles that the front end has for tables and headings."""
POLICY = "default-src 'none'; style-src 'unsafe-inline';"
"""What a page may load: nothing; its own styles and its own script are in it."""


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

    def without_constant(self, name: str) -> Rows:
        """The table without a column of words that has one and the same value throughout."""
        place = self.head.index(name)
        if len({row[place] for row in self.body}) > 1:
            return self
        rows = [[*row[:place], *row[place + 1 :]] for row in (self.head, *self.body)]
        return Rows(rows[0], rows[1:], self.words - 1)


@dataclass(frozen=True)
class Picture:
    """A figure, drawn when it is asked for.

    Attributes:
        name: of its file.
        draw: gives the figure as SVG in the light colours, so many inches wide.
        caption: what is measured, on how much, and what bands and lines are.
        alt: what it shows, in words, for who can't see it.
    """

    name: str
    draw: Callable[[float], str]
    caption: str
    alt: str

    @property
    def file(self) -> str:
        """Name of its file beside report.md."""
        return f"report-{self.name}.svg"


@dataclass(frozen=True)
class Listing:
    """Preformatted text, such as a file or a command."""

    text: str
    language: str


@dataclass(frozen=True)
class Folded:
    """Parts that are shown on demand, below a line that says what they are."""

    title: str
    parts: list[Part]


Part: TypeAlias = "str | Scores | Rows | Picture | Listing | Folded"


@dataclass(frozen=True)
class Section:
    """A heading and the parts under it."""

    title: str
    parts: list[Part]

    @property
    def pictures(self) -> list[Picture]:
        """Its figures."""
        return [part for part in self.parts if isinstance(part, Picture)]


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The text of report.md."""
    lines = [f"# {_literal(title)}"]
    for section in sections:
        lines += [f"## {_literal(section.title)}", *map(as_markdown, section.parts)]
    return "\n\n".join(lines) + "\n"


def as_markdown(part: Part) -> str:
    """A part of a page as Markdown."""
    match part:
        case Scores():
            body = [
                (split, f"{before:.1%}", f"**{after:.1%}**", f"{100 * (after - before):+.1f}")
                for split, before, after, _ in part.splits
            ]
            return as_markdown(Rows((part.metric, "before", "after", "points"), body))
        case Rows():
            marks = ["---" if i < part.words else "---:" for i in range(len(part.head))]
            cells = [part.head, marks, *part.body]
            return "\n".join(f"| {' | '.join(map(_as_cell, row))} |" for row in cells)
        case Picture():
            return f"![{_literal(part.alt)}]({part.file})\n\n*{_literal(part.caption)}*"
        case Listing():
            fence = "`" * (1 + max([2, *map(len, re.findall("`+", part.text))]))
            return f"{fence}{part.language}\n{part.text}\n{fence}"
        case Folded():
            return "\n\n".join([f"### {_literal(part.title)}", *map(as_markdown, part.parts)])
        case _:
            return html.escape(part, quote=False)


def _as_cell(text: str) -> str:
    """A cell of a table: literal, but for the marks that align a column and make a score bold."""
    return text if re.fullmatch(r"-+:?|\*\*[0-9.,%]+\*\*", text) else _literal(text)


def _literal(text: str) -> str:
    """Text that somebody chose, so that Markdown shows it as it is: no HTML, no link, no markup, one line."""
    escaped = re.sub(r"([\\`*\[\]|])|(?<!\w)_|_(?!\w)", lambda found: f"\\{found[0]}", " ".join(text.split()))
    return html.escape(escaped, quote=False)


def page(title: str, sections: Sequence[Section]) -> str:
    """The text of report.html: no network, light and dark, and tables that can be sorted where scripts run."""
    body = "\n".join(map(_section, sections))
    links = "".join(f'<a href="#{_anchor(one)}">{html.escape(one.title)}</a>' for one in sections)
    style, script = (resources.files("zoplat.report").joinpath(n).read_text(encoding="utf-8") for n in INCLUDED)
    allowed = base64.b64encode(sha256(script.encode()).digest()).decode()
    heading, _, rest = title.partition(" · ")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY} script-src 'sha256-{allowed}'">
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
<nav aria-label="Sections">{links}</nav>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def piece(title: str, parts: Sequence[Part]) -> str:
    """Parts of a page for the output of a notebook's cell: in the colours of reports, which hold inside of it alone."""
    heading, _, rest = title.partition(" · ")
    style = resources.files("zoplat.report").joinpath(STYLE).read_text(encoding="utf-8")
    body = "\n".join(_as_html(part, {"only": WIDE}) for part in parts)
    return f"""<style>
{WITHIN} {{ {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ {WITHIN} {{ {_variables(DARK)} }} }}
{WITHIN} {{
table {{ margin: 0; table-layout: auto; }}
td {{ text-align: left; }}
tbody tr {{ background: none; }}
{style}
background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
max-width: 56rem; padding: 1rem 1.25rem;
h1 {{ font-size: 1.25rem; }}
}}
</style>
<div class="zoplat-report">
<header><h1>{html.escape(heading)}</h1><p>{html.escape(rest)}</p></header>
{body}
</div>"""


def _section(section: Section) -> str:
    parts = "\n".join(map(_as_html, section.parts))
    return f'<section id="{_anchor(section)}">\n<h2>{html.escape(section.title)}</h2>\n{parts}\n</section>'


def _anchor(section: Section) -> str:
    return "section-" + re.sub(r"\W+", "-", section.title.lower()).strip("-")


def _as_html(part: Part, widths: Mapping[str, float] = WIDTHS) -> str:
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
            return _table(part)
        case Picture():
            drawn = "".join(_inline(part.draw(width), part.alt, kind) for kind, width in widths.items())
            return f'<figure role="group">{drawn}<figcaption>{_prose(part.caption)}</figcaption></figure>'
        case Listing():
            return f"<pre><code>{html.escape(part.text)}</code></pre>"
        case Folded():
            inner = "\n".join(_as_html(one, widths) for one in part.parts)
            return f"<details><summary>{html.escape(part.title)}</summary>\n{inner}\n</details>"
        case _:
            return f"<p>{_prose(part)}</p>"


def _prose(text: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _table(rows: Rows) -> str:
    """A table; every cell has its heading with it, for telephones, where a row is a block of lines."""
    if not any(rows.head):
        lines = "\n".join(
            f"<tr><th scope=row>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows.body
        )
        return f"<table class=facts><tbody>\n{lines}\n</tbody></table>"
    longest = [max((len(row[i]) for row in rows.body), default=0) for i in range(len(rows.head))]
    kinds = ["" if i < rows.words else " class=number" for i in range(len(rows.head))]
    kinds = [" class=long" if not kind and most > LONG else kind for kind, most in zip(kinds, longest, strict=True)]
    names = [html.escape(name) for name in rows.head]
    head = "".join(f"<th scope=col{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{name}">{html.escape(cell)}</td>'
            for kind, name, cell in zip(kinds, names, row, strict=True)
        )
        + "</tr>"
        for row in rows.body
    )
    table = f"<table class=rows><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide-table">{table}</div>'


def _inline(svg: str, alt: str, kind: str) -> str:
    """The SVG with the page's colour variables in place of colours, so that it follows light and dark mode."""
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height)="[^"]*"', "", svg[svg.index("<svg") :], count=4)
    for colour, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{colour})")
    return svg.replace("<svg", f'<svg class="{kind}" role="img" aria-label="{html.escape(alt)}"', 1)


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
