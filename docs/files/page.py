"""docs/reference/files.md: a table for each file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docs.files.bundle import BUNDLE
from docs.files.file import File
from docs.files.reports import PAGES
from docs.files.run import RUN
from docs.files.study import STUDY

GROUPS = {
    "A run directory": ("What `zoplat run --out FOLDER` writes, and `zoplat-edge run` too.", RUN),
    "The folder of a study": ("What `zoplat compare --out FOLDER` writes.", STUDY),
    "A bundle": ("What `zoplat pack --to FOLDER` writes, for [a board](../how-to/fine-tune-on-a-board.md).", BUNDLE),
    "Reports": ("What is written for people, with the numbers behind it.", PAGES),
}
HEAD = """# Files on disk

What zoplat writes, file by file, and what each key in it means. All text is UTF-8; a number that is not finite stands
as null, in a journal as text. Keys may be added by later versions; those that are here keep their meaning, as
[stability](stability.md) says. A key such as `versions.<package>` is there for each package, `rows[].score` for each
entry of a list, and `settings.*` has more below it. TOML has no null: a setting that is None is not in the file.
"""


def page() -> str:
    """The reference of files."""
    return HEAD + "".join(
        f"\n## {title}\n\n{text}\n{''.join(sections(files))}" for title, (text, files) in GROUPS.items()
    )


def sections(files: list[File]) -> Iterator[str]:
    """A heading with a table for each file, and a bare table for its further variants."""
    last = ""
    for file in files:
        head = f"\n### {file.name}\n\n{file.what}".rstrip() + "\n" if file.name != last else ""
        variant = f"\n{file.variant[0].upper()}{file.variant[1:]}:\n" if file.variant else ""
        rows = "".join(f"| `{key}` | {cell(meaning)} |\n" for key, meaning in file.keys.items())
        table = f"\n| key | meaning |\n| --- | --- |\n{rows}" if rows else ""
        yield head + variant + table
        last = file.name


def cell(text: Any) -> str:
    """A text in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")
