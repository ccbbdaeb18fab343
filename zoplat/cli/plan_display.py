"""A plan as tables: what the asked mode takes by owner, and all modes beside each other."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from zoplat.cli.display import duration, plain_console
from zoplat.planning.fixed import MIB, Share
from zoplat.planning.plan import Outcome, Plan

STYLES = {"fits": "green", "too large": "red", "can't say": "yellow"}

WIDTH = 128
"""Columns that the tables need."""


def print_plan(plan: Plan) -> None:
    """Print the owners of the asked mode, the modes, and what to change."""
    console, asked = plain_console(), plan.outcomes[0]
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    assert asked.planned is not None
    facts, (rows, tokens) = asked.planned.facts, asked.planned.rows
    console.print(
        f"{facts['model']} in {facts['dtype']} · device {facts['device']} · {facts['strategy']}, restore "
        f"{facts['restore']} · longest batch {rows} × {tokens} tokens"
    )
    owners = _table("as asked, by owner", "low", "expected", "high", "")
    for share in (*_large(asked.planned.shares), asked.planned.total):
        owners.add_row(share.owner, size(share.low), size(share.expected), size(share.high), share.note)
    console.print(owners)
    limit = f"a limit of {size(plan.limit)}" if plan.limit else "no --memory given, so what fits can't be said"
    console.print(f"\nmodes on {plan.where}, {limit}")
    modes = _table("", "low", "expected", "high", "÷ inference", "a step", "the run", "")
    for outcome in plan.outcomes:
        modes.add_row(*_row(outcome))
    console.print(modes)
    for line in plan.advice:
        console.print(line)
    if any(outcome.at_least is not None for outcome in plan.outcomes):
        console.print("≥: what compute and bandwidth of the profile allow; a real step takes longer.")
    if any(outcome.seconds is None and outcome.at_least is None for outcome in plan.outcomes):
        console.print("unknown: `zoplat profile` with the same flags measures a step here, and is remembered.")


def _table(*columns: str) -> Table:
    """A table without lines."""
    return Table(*columns, box=None, pad_edge=False)


def _large(shares: tuple[Share, ...]) -> list[Share]:
    """Shares without those below a MiB, which are added up."""
    small = [share for share in shares if share.high < MIB]
    sums = (sum(getattr(share, name) for share in small) for name in ("low", "expected", "high"))
    return [*(share for share in shares if share.high >= MIB), Share("smaller ones", *sums)]


def _row(outcome: Outcome) -> list[str | Text]:
    word = Text(outcome.verdict, STYLES[outcome.verdict])
    if outcome.planned is None:
        return [outcome.mode.name, "", "", "", "", "", "", Text.assemble(word, f": {outcome.reason}")]
    total = outcome.planned.total
    ratio = outcome.planned.training / outcome.planned.inference
    known = outcome.seconds if outcome.seconds is not None else outcome.at_least
    sign = "" if outcome.seconds is not None else "≥ "
    step = f"{sign}{known:.2g} s" if known is not None else "unknown"
    run = f"{sign}{duration(known * outcome.steps)}" if known is not None and outcome.steps else "unknown"
    sizes = [size(count) for count in (total.low, total.expected, total.high)]
    return [outcome.mode.name, *sizes, f"{ratio:.2f}", step, run, word]


def size(count: int) -> str:
    """Bytes in the unit in which they are read.

    >>> size(3 << 20), size(27 << 30)
    ('3 MiB', '27.00 GiB')
    """
    return f"{count / 2**30:.2f} GiB" if count >= 1 << 30 else f"{count / MIB:.0f} MiB"
