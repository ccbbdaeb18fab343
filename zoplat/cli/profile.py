"""zoplat profile: a few steps with their time and memory by phase, or a smoothing radius."""

import json
import math
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from zoplat.cli.options import JSON, PARTS, SETTINGS, STEP, WORK, as_settings, flags

MIB = 1 << 20


@click.command()
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Steps to measure, after one.")
@click.option("--suggest-eps", is_flag=True, help="Find a smoothing radius for this model, dtype and batch instead.")
@flags(PARTS, WORK, STEP, SETTINGS)
@JSON
def profile(steps: int, suggest_eps: bool, as_json: bool, **given: Any) -> None:
    """Make a few steps and tell where time and memory went; nothing is written."""
    from zoplat import profiling
    from zoplat.batches import Batches
    from zoplat.engine import objective_of, prepared
    from zoplat.settings import resolve

    config = resolve({**as_settings(given), "steps": steps + 1})
    session, profiler, rows = prepared(config)
    batches, objective = Batches(rows, config.batch_size, config.seed), objective_of(config)
    if suggest_eps:
        found = profiling.suggest_eps(config, session, batches.at(0), objective)
        return click.echo(json.dumps({"status": "done", **vars(found)})) if as_json else _show_eps(found)
    told = profiling.profile(config, session, profiler, batches, objective, steps)
    return click.echo(json.dumps(told)) if as_json else _show(told)


def _show(told: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{told['estimator']} on {told['model']} ({told['device']}, {told['dtype']}, restore {told['restore']}): "
        f"{told['seconds_a_step']:.3f} s and {told['forward_passes_a_step']:g} forward passes a step"
    )
    table = Table("phase", "seconds", "of", "peak MiB, host", "device", box=None)
    for row in told["phases"]:
        device = "–" if row["device_peak"] is None else f"{row['device_peak'] / MIB:,.0f}"
        table.add_row(row["phase"], f"{row['seconds']:.3f}", row["of"], f"{row['host_peak'] / MIB:,.0f}", device)
    console.print(table)
    owners = Table("owner", "MiB", box=None)
    for name, size in told["owners"].items():
        owners.add_row(name, f"{size / MIB:,.1f}")
    console.print(owners)


def _show_eps(found: Any) -> None:
    console = Console(highlight=False)
    table = Table("ε", "slopes differ from those at the next ε by", box=None)
    for eps, error in found.error.items():
        mark = "  ← suggested" if eps == found.eps else ""
        table.add_row(f"{eps:.1e}", f"{100 * error:.1f} %{mark}" if math.isfinite(error) else "not finite")
    console.print(table)
    console.print(f"--eps {found.eps:.1e}   noise of a loss {found.noise:.1e}, {found.passes} forward passes")
