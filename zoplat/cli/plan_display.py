"""A plan as tables: what the asked mode takes by owner, and all modes beside each other."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from zoplat.cli.display import duration, plain_console
from zoplat.plan.plan import Outcome, Plan

STYLES = {"fits": "green", "too large": "red", "can't say": "yellow"}


def print_plan(plan: Plan) -> None:
    """Print the owners of the asked mode, the modes, and what to change."""
    console, asked = plain_console(), plan.outcomes[0]
    assert asked.planned is not None
    facts, (rows, tokens) = asked.planned.facts, asked.planned.rows
    console.print(
        f"{facts['model']} in {facts['dtype']} · device {facts['device']} · {facts['strategy']}, restore "
        f"{facts['restore']} · longest batch {rows} × {tokens} tokens"
    )
    owners = Table("as asked, by owner", "low", "expected", "high", "", box=None, pad_edge=False)
    for share in (*asked.planned.shares, asked.planned.total):
        owners.add_row(share.owner, gib(share.low), gib(share.expected), gib(share.high), share.note)
    console.print(owners)
    limit = f" · {gib(plan.limit)} on {plan.where}" if plan.limit else f" · {plan.where}, no --memory given"
    modes = Table(f"modes{limit}", "low", "expected", "high", "÷ inference", "a step", "the run", "", box=None)
    for outcome in plan.outcomes:
        modes.add_row(*_row(outcome))
    console.print()
    console.print(modes)
    for line in plan.advice:
        console.print(f"would fit: {line}" if ":" in line and line.startswith("--") else line)
    if any(outcome.seconds is None for outcome in plan.outcomes):
        console.print("\n≥: what the profile's compute and bandwidth allow. `zoplat profile` with the same flags measures.")


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
    return [outcome.mode.name, gib(total.low), gib(total.expected), gib(total.high), f"{ratio:.2f}", step, run, word]


def gib(size: int) -> str:
    """Bytes in GiB, as text."""
    return f"{size / 2**30:.2f} GiB"
