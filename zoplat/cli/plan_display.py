"""A plan as tables: what the asked mode takes by owner, and all modes beside each other."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from zoplat.calls.plan import PlanResult
from zoplat.calls.progress import plain_console
from zoplat.report.pages import Rows

STYLES = {"fits": "green", "too large": "red", "can't say": "yellow"}

WIDTH = 128
"""Columns that the tables need."""


def print_plan(result: PlanResult) -> None:
    """Print the owners of the asked mode, the modes, and what to change."""
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    console.print(result.heading)
    console.print(_table(result.owner_rows()))
    console.print(f"\n{result.limit}")
    console.print(_table(result.mode_rows()))
    for line in result.notes():
        console.print(line)


def _table(rows: Rows) -> Table:
    """A table without lines; verdicts are coloured."""
    table = Table(*rows.head, box=None, pad_edge=False)
    for row in rows.body:
        verdict, colon, reason = row[-1].partition(":")
        last = Text.assemble((verdict, STYLES[verdict]), colon, reason) if verdict in STYLES else row[-1]
        table.add_row(*row[:-1], last)
    return table
