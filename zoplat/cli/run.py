"""zoplat run: one training run."""

from pathlib import Path
from typing import Any

import click

from zoplat.cli.options import (
    BUDGET,
    FORGETTING,
    OUTPUT,
    PARALLEL,
    PARTS,
    PLUGIN,
    SETTINGS,
    WORK,
    Sectioned,
    as_settings,
    echo_json,
    flags,
)
from zoplat.cli.terminal import is_quiet
from zoplat.core.plain_json import to_text


@click.command(cls=Sectioned)
@flags(PARTS, WORK, BUDGET, [FORGETTING, PARALLEL], SETTINGS)
@click.option("--memory", metavar="SIZE|MACHINE", help="Limit of what the run takes, such as 6GiB or jetson-orin-nano.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: a fresh one in runs/]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one; with a larger budget too.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the settings, without training.")
@click.option("--report-to", metavar="NAME,…", help="Trackers that get its numbers; `zoplat list trackers`.")
@click.option("--rank-timeout", type=float, default=1800.0, help="Seconds to wait for another process of the run.")
@PLUGIN
@OUTPUT
def run(
    out: Path | None,
    resume: bool,
    dry_run: bool,
    report_to: str | None,
    rank_timeout: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Fine-tune a model by forward passes, and score it before and after training.

    Without flags: the default method on a packaged 135M model and a packaged sentiment task.
    """
    from zoplat.config.layers import resolve
    from zoplat.planning.within import train_within
    from zoplat.training.directory import resumed_settings
    from zoplat.training.setup import check
    from zoplat.training.tracking import trackers_named

    settings = resumed_settings(as_settings(given), out, resume)
    config = resolve(settings)
    if dry_run:
        trackers_named(report_to)
        sizes = {split: len(rows) for split, rows in check(config, out, resume, rehearse=True).items()}
        click.echo(to_text({**config.table(), "rows": sizes}) if as_json else config.toml())
        return
    from zoplat.calls.progress import display
    from zoplat.cli.display import print_summary
    from zoplat.training.ranks import is_helper

    with display(as_json, is_quiet()) as callback:
        result = train_within(settings, out, resume, callback, report_to, rank_timeout)
    if is_helper():
        return
    if as_json:
        echo_json(result.summary.to_json())
    else:
        print_summary(result)
