"""zoplat list: registered parts, or runs."""

import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.options import OUTPUT, echo_json
from zoplat.cli.terminal import echo, note
from zoplat.core.errors import ZoplatError
from zoplat.registry import KINDS, catalogue

if TYPE_CHECKING:
    from zoplat.training.directory import RunDirectory
    from zoplat.training.summary import Summary

LISTINGS = (*(f"{kind}s" for kind in KINDS), "runs")
"""What can be listed."""
COSTS = ("passes", "over θ", "bytes a weight")
"""Heads of the columns of a step's cost: forward passes, passes over the weights, and what is kept for a weight."""
MEASURED = Path(__file__).with_name("costs.json")
"""Costs of the parts that ship, by kind and name, as `docs/generate.py` measured them: doing it here takes seconds."""


@click.command("list")
@click.argument("kind", metavar="KIND", type=click.Choice(LISTINGS))
@click.option("--in", "folder", type=click.Path(path_type=Path), default=Path("runs"), help="Folder with runs.")
@OUTPUT
def list_(kind: str, folder: Path, as_json: bool) -> None:
    """List one KIND: estimators, samplers, step-rules, devices, tasks, presets, trackers, probes or runs.

    Of estimators and step rules, also what a step takes: forward passes, passes over the weights θ, and bytes kept for
    a weight; `zoplat show NAME` has more.
    """
    rows = _runs(folder) if kind == "runs" else _parts(kind.removesuffix("s"))
    if as_json:
        echo_json(rows)
        return
    if not rows:
        note(f"no runs in {folder}" if kind == "runs" else f"no {kind}")
    costs = [_cells(row.get("cost", {})) for row in rows] if any("cost" in row for row in rows) else []
    names = [row["name"] for row in rows]
    columns = [_column(["", *names] if costs else names, left=True)]
    columns += [_column([head, *cells]) for head, *cells in zip(COSTS, *costs, strict=True)] if costs else []
    columns.append([*([""] if costs else []), *map(_line, rows)])
    for cells in zip(*columns, strict=True):
        echo("  ".join(cells).rstrip())


def _line(row: dict[str, Any]) -> str:
    """What a row says about itself, and the package it comes from."""
    source = f"  ({row['distribution']} {row['version']})" if row.get("distribution") else ""
    return f"{row['summary']}{source}"


def _cells(cost: dict[str, Any]) -> list[str]:
    """The cost of a step in short: its figures depend on the model where they "vary"."""
    figures = [*cost.values()][: len(COSTS)]
    if len(figures) < len(COSTS):  # at most the reason why it can't be measured
        return ["–"] * len(COSTS)
    *passes, matrix = ("varies" if isinstance(figure, str) else figure for figure in figures)
    return [*map(str, passes), matrix if isinstance(matrix, str) else f"{matrix / 2**20:.3g}"]


def _column(cells: list[str], left: bool = False) -> list[str]:
    """Cells of the same width."""
    width = max(map(len, cells), default=0)
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]


def _parts(kind: str) -> list[dict[str, Any]]:
    from zoplat.cli.show import cost

    shipped = json.loads(MEASURED.read_text(encoding="utf-8")).get(kind, {})
    rows = []
    for entry in sorted((entry for entry in catalogue() if entry.kind == kind), key=lambda entry: entry.name):
        row = {name: getattr(entry, name) for name in ("name", "summary", "distribution", "version")}
        known = shipped.get(entry.name) if entry.distribution == "zoplat" else None
        if found := known or cost(entry):
            row["cost"] = found
        rows.append(row)
    return rows


def _runs(folder: Path) -> list[dict[str, Any]]:
    from zoplat.training.directory import find_runs

    return [_run(run) for run in find_runs(folder)]


def _run(run: "RunDirectory") -> dict[str, Any]:
    name = str(run.path)
    try:
        return _readable(name, run.read_summary())
    except ZoplatError as problem:
        reason = str(problem)
    except (TypeError, ValueError, AttributeError):
        reason = f"{run.summary} has values that no run writes."
    return {"name": name, "summary": f"can't be read: {reason}", "error": reason}


def _readable(name: str, summary: "Summary | None") -> dict[str, Any]:
    if not summary:
        return {"name": name, "summary": f"not finished; to go on: zoplat run --resume --out {quote(name)}"}
    if summary.test_before is None:  # a model that was only evaluated, by `zoplat compare`
        text = f"{summary.metric} {summary.test_after:.3f}, without training"
    else:
        text = (
            f"{summary.metric} {summary.test_before:.3f} → {summary.test_after:.3f}; "
            f"{summary.forward_passes} passes, {summary.seconds_training:.0f} s"
        )
    return {"name": name, "summary": f"{summary.estimator} on {summary.task}: {text}", **summary.to_json()}
