"""Line numbers of keys in a TOML file, for error messages."""

from __future__ import annotations

import re
from collections.abc import Iterator

KEY = r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*="""
"""A line that sets a key, which may be quoted or dotted."""


def line_of(text: str, key: str, table: str = "") -> int:
    """The line, counted from 1, that sets a key of a table; where it is not found, the line of the table, or 1."""
    fallback, current = 0, ""
    for number, line in _lines_outside_strings(text):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            current = header[1]
            fallback = fallback or (number if current in (table, key) else 0)
        if names := re.match(KEY, line):
            name = ".".join(part.strip().strip("\"'") for part in names[1].split("."))
            path = f"{current}.{name}" if current else name
            if key and path == (f"{table}.{key}" if table else key):
                return number
            fallback = fallback or (number if path == table or path.startswith(f"{key}.") else 0)
    return fallback or 1


def _lines_outside_strings(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without those that begin inside a multi-line string."""
    quote = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not quote:
            yield number, line
        for mark in re.findall(r'"""|\'\'\'', line):
            quote = "" if quote == mark else quote or mark
