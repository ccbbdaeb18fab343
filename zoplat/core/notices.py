"""Notices: what a user should know although nothing stops; lines on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

Notice = Callable[[str], None]
"""Is called with one notice."""


def notice(text: str) -> None:
    """Print a notice to standard error."""
    print(f"Note: {text}", file=sys.stderr)


def unheard(text: str) -> None:
    """Do nothing with a notice; for rows that are read a second time."""


def counted(count: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "step"), counted(1200, "forward pass")
    ('1 step', '1200 forward passes')
    """
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"
