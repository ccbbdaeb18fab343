"""Writes docs/reference from the code: `python docs/generate.py`; with --check it only says what is stale."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zoplat import hookspecs
from zoplat.cli import main
from zoplat.plugins import KINDS, Entry, catalogue
from zoplat.settings import setting_fields

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Made by `python docs/generate.py`; change the code, not this page. -->\n\n"


def commands() -> str:
    """Every command with its help as the terminal shows it."""
    page = NOTE + "# Commands\n"
    root = click.Context(main, info_name="zoplat", terminal_width=100, **main.context_settings)
    contexts = [click.Context(main.commands[name], root, name) for name in sorted(main.commands)]
    for context in [root, *contexts]:
        page += f"\n## {context.command_path}\n\n```\n{context.get_help()}\n```\n"
    return page


def parts() -> str:
    """Every part that ships, under the hook that brings it."""
    page = NOTE + "# Parts\n\nWhat `zoplat list` shows without other plugins installed, and what `-o` can change.\n"
    for kind, hook in KINDS.items():
        page += f"\n## {hook}\n\n{inspect.getdoc(getattr(hookspecs, hook))}\n"
        own = (entry for entry in catalogue() if entry.kind == kind and entry.distribution == "zoplat")
        page += "".join(map(part, sorted(own, key=lambda entry: entry.name)))
    return page


def part(entry: Entry) -> str:
    """One part: what it is, whose, its fields."""
    head = f"\n### {entry.kind} `{entry.name}`\n\n{entry.summary}. From {entry.distribution} {entry.version}."
    rows = "".join(f"| `{name}` | `{default}` | {text} |\n" for name, default, text in fields(entry.value))
    return f"{head}\n" + (f"\n| field | default | meaning |\n| --- | --- | --- |\n{rows}" if rows else "")


def fields(value: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted path, default, meaning) of a part's fields, those of parts inside it included."""
    known = described(type(value))
    for field in setting_fields(value):
        held = getattr(value, field.name)
        inner = dataclasses.is_dataclass(held)
        if inner or not (callable(held) or field.name == "summary"):
            shown = (type(held).__name__ if inner else repr(held)).replace("|", "\\|")
            yield prefix + field.name, shown, known.get(field.name, "")
        if inner:
            yield from fields(held, f"{prefix}{field.name}.")


def described(kind: type) -> dict[str, str]:
    """Field → text, from the Attributes of a class's docstring and its bases'."""
    known: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for names, text in re.findall(r"^    ([a-z_0-9, ]+): ((?:.|\n     )+)", inspect.getdoc(base) or "", re.M):
            known |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return known


if __name__ == "__main__":
    pages = {FOLDER / "commands.md": commands(), FOLDER / "parts.md": parts()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"{', '.join(map(str, stale))}: not what the code says. Run `python docs/generate.py`.")
    else:
        for path in stale:
            path.write_text(pages[path], encoding="utf-8")
            print(path)
