"""zoplat list: registered parts, or runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.options import JSON, echo_json
from zoplat.registry import KINDS, catalogue

if TYPE_CHECKING:
    from zoplat.training.directory import RunDirectory

LISTINGS = (*(f"{kind}s" for kind in KINDS), "runs")
"""What can be listed."""


@click.command("list")
@click.argument("kind", type=click.Choice(LISTINGS))
@click.option("--in", "folder", type=click.Path(path_type=Path), default=Path("runs"), help="Folder with runs.")
@JSON
def list_(kind: str, folder: Path, as_json: bool) -> None:
    """List estimators, samplers, step-rules, devices, tasks, presets or runs."""
    rows = _runs(folder) if kind == "runs" else _parts(kind.removesuffix("s"))
    if as_json:
        echo_json(rows)
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        source = f"  ({row['distribution']} {row['version']})" if row.get("distribution") else ""
        click.echo(f"{row['name']:<{width}}  {row['summary']}{source}")


def _parts(kind: str) -> list[dict[str, Any]]:
    entries = sorted((entry for entry in catalogue() if entry.kind == kind), key=lambda entry: entry.name)
    return [
        {"name": e.name, "summary": e.summary, "distribution": e.distribution, "version": e.version} for e in entries
    ]


def _runs(folder: Path) -> list[dict[str, Any]]:
    from zoplat.training.directory import find_runs

    return [_run(run) for run in find_runs(folder)]


def _run(run: "RunDirectory") -> dict[str, Any]:
    name, summary = str(run.path), run.read_summary()
    if not summary:
        return {"name": name, "summary": "not finished (`zoplat run --resume --out …` goes on)"}
    if summary.test_before is None:  # a model that was only evaluated, by `zoplat compare`
        text = f"{summary.metric} {summary.test_after:.3f}, without training"
    else:
        text = (
            f"{summary.metric} {summary.test_before:.3f} → {summary.test_after:.3f}; "
            f"{summary.forward_passes} passes, {summary.seconds_training:.0f} s"
        )
    return {"name": name, "summary": f"{summary.estimator} on {summary.task}: {text}", **summary.to_json()}
