"""zoplat list: what there is."""

import json
from pathlib import Path
from typing import Any

import click

from zoplat.cli.options import JSON

KINDS = ("estimators", "samplers", "step-rules", "devices", "tasks", "presets", "runs")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--in", "folder", type=click.Path(path_type=Path), default=Path("runs"), help="Where to look for runs.")
@JSON
def list_(kind: str, folder: Path, as_json: bool) -> None:
    """List estimators, samplers, step-rules, devices, tasks, presets or runs."""
    from zoplat.registry import catalogue
    from zoplat.training.directory import find_runs

    if kind == "runs":
        rows = [_run(run.path, summary) for run, summary in find_runs(folder)]
    else:
        entries = sorted((e for e in catalogue() if e.kind == kind[:-1]), key=lambda entry: entry.name)
        rows = [
            {"name": e.name, "summary": e.summary, "distribution": e.distribution, "version": e.version}
            for e in entries
        ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        source = f"  ({row['distribution']} {row['version']})" if row.get("distribution") else ""
        click.echo(f"{row['name']:<{width}}  {row['summary']}{source}")


def _run(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    if not summary:
        return {"name": str(path), "summary": "not finished (`zoplat run --resume --out …` goes on)"}
    score = f"{summary['metric']} {summary['test_before']:.3f} → {summary['test_after']:.3f}"
    cost = f"{summary['forward_passes']} passes, {summary['seconds_training']:.0f} s"
    return {"name": str(path), "summary": f"{summary['estimator']} on {summary['task']}: {score}; {cost}", **summary}
