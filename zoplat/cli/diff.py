"""zoplat diff: what differs between two runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.options import OUTPUT, PLUGIN, echo_json
from zoplat.cli.terminal import echo
from zoplat.core.notices import counted

if TYPE_CHECKING:
    from zoplat.comparison.difference import Difference, Steps

WIDEST = 32
"""Characters of a value that stands beside another."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN", type=click.Path(path_type=Path))
@PLUGIN
@OUTPUT
def diff(run: Path, other: Path, as_json: bool) -> None:
    """Show what differs between two RUNs: settings, versions, data, model, the first step that differs, and results.

    The exit status is 0 where they are equal in all that matters, and 1 where they differ. Seconds, memory and versions
    of packages are shown and do not count.
    """
    from zoplat.comparison.difference import difference
    from zoplat.training.directory import RunDirectory

    found = difference(RunDirectory.existing(run), RunDirectory.existing(other))
    if as_json:
        echo_json(found.to_json())
    else:
        for line in _lines(found):
            echo(line)
    if not found.are_equal:
        raise SystemExit(1)


def _lines(found: "Difference") -> Iterator[str]:
    """The difference for people."""
    yield f"{found.runs[0]}  against  {found.runs[1]}"
    for title, pairs in (("settings", found.settings), ("data", found.data), ("model", found.model)):
        parts = " (of two parts, those that both have)" if any(name.endswith(".name") for name in pairs) else ""
        yield from _section(title, pairs, parts)
    yield from _section("versions", found.versions, " (they do not count)")
    yield f"\nsteps: {_steps(found.steps)}"
    yield from _section("results", found.results, shows_all=True)
    yield f"\n{'equal' if found.are_equal else 'different'} in what matters"


def _section(title: str, pairs: dict[str, Any], remark: str = "", shows_all: bool = False) -> Iterator[str]:
    if not pairs:
        yield f"\n{title}: the same"
        return
    yield f"\n{title}{remark}"
    rows = [(name, _text(one), _text(other), one != other) for name, (one, other) in pairs.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, one, other, differs in rows:
        mark = "  ≠" if differs and shows_all else ""
        yield f"  {name.ljust(widths[0])}  {one.ljust(widths[1])}  {other}{mark}"


def _steps(steps: "Steps | None") -> str:
    """The journals in one or two sentences."""
    if steps is None:
        return "one of the runs has no journal"
    shared = min(steps.counts)
    longer = (
        f"; one run made {counted(steps.counts[0], 'step')}, the other {steps.counts[1]}"
        if len({*steps.counts}) > 1
        else ""
    )
    if steps.first is None:
        return f"all {shared} the same, bit by bit{longer}"
    one, other = steps.values or ("–", "–")
    where = f"answer {steps.answer} of {steps.of[0]}" if steps.answer and steps.of else steps.what
    gap = ""
    if isinstance(one, float) and isinstance(other, float):
        relative = f", or {100 * abs(other - one) / abs(one):.2g} %" if one else ""
        gap = f", a difference of {other - one:.3g}{relative}"
    before = f"Steps 0 to {steps.first - 1} are equal" if steps.first else "No step before it"
    size, step = steps.largest or (None, None)
    largest = "" if size is None else f"; the largest difference of an answer is {size:.3g}, at step {step}"
    return (
        f"the first that differs is step {steps.first}, in {where}: {one} against {other}{gap}.\n"
        f"  {before}; {steps.differing} of {shared} differ{largest}{longer}"
    )


def _text(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, dict):
        value = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in value.items() if size is not None)
    text = "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
