"""General text that ships with zoplat: what a model is read on to see how much of language training has cost it."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files

FILE = "general.txt"


def texts() -> list[str]:
    """Its paragraphs, each on a subject of its own."""
    return _content().strip().split("\n\n")


def digest() -> str:
    """sha256 of the file; numbers on different digests can't be compared."""
    return f"sha256:{sha256(_content().encode()).hexdigest()}"


@cache
def _content() -> str:
    return files(__package__).joinpath(FILE).read_text(encoding="utf-8")
