"""What commands print: fitted to a terminal, whole lines elsewhere; and progress beside it, unless --quiet."""

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import click

QUIET = "zoplat.quiet"
"""Key of what `--quiet` says among what a command's context knows."""


def is_quiet() -> bool:
    """Whether the user wants nothing but errors and the result."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def notes() -> Callable[[str], None]:
    """What prints lines of progress on standard error, from any thread; nothing after --quiet."""
    return (lambda text: None) if is_quiet() else partial(click.echo, err=True)


def note(text: str) -> None:
    """Print a line of progress on standard error, unless --quiet; for the thread of the command."""
    notes()(text)


def echo(text: str, end: bool = True) -> None:
    """Print a text on standard output: as it is, or fitted where that is a terminal."""
    width = columns()
    click.echo(fitted(text, width) if width else text, nl=end)


def columns() -> int:
    """Columns of the terminal that standard output is; 0 where it is none, and lines stay whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def fitted(text: str, width: int) -> str:
    """A text whose lines are no wider than a terminal, as far as its words allow.

    Lines are broken at blanks, and what follows is indented to where the last column began. A Markdown table that is
    too wide is written row by row, a line for each cell.
    """
    lines = [line for block in _blocks(text.split("\n")) for line in _fitted(block, width)]
    return "\n".join(lines)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Tables as they stand, and every other line by itself."""
    table: list[str] = []
    for line in lines:
        if line.startswith("| "):
            table.append(line)
            continue
        if table:
            yield table
            table = []
        yield [line]
    if table:
        yield table


def _fitted(block: list[str], width: int) -> Iterator[str]:
    if max(map(len, block)) <= width:
        yield from block
    elif len(block) > 2 and re.fullmatch(r"\|[ :|-]+\|", block[1]):
        head, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in block)
        for row in rows:
            for title, cell in zip(head, row, strict=False):
                yield from _wrapped(f"{title or '–'}: {cell}", width)
            yield ""
    else:
        for line in block:
            yield from _wrapped(line, width)


def _wrapped(line: str, width: int) -> list[str]:
    """A line in pieces; where it has columns, two blanks apart, the others begin where its last one does."""
    ahead = max((found.end() for found in re.finditer(r"\S {2,}(?=\S)", line[: width // 2])), default=0)
    indent = ahead or len(line) - len(line.lstrip()) + 2
    found = textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    return found or [line]
