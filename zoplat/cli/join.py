"""zoplat join: help a run from another machine."""

from pathlib import Path

import click

from zoplat.cli.options import ALLOW, OUTPUT, PLUGIN, TRUST, echo_json
from zoplat.core.notices import counted


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--rank-timeout", type=float, default=1800.0, help="Seconds to wait for the run to go on.")
@PLUGIN
@ALLOW
@TRUST
@OUTPUT
def join(run: Path, rank_timeout: float, as_json: bool) -> None:
    """Compute points of RUN, which was begun with --parallel queries, until it ends.

    RUN is its directory, on a file system that both machines see. Any number may join, at any time, and leave.
    """
    from zoplat.training.join import join as help_run

    found = help_run(run, rank_timeout)
    if as_json:
        echo_json(found)
    else:
        what = f"{counted(found['points'], 'point')} computed; the run ended after {counted(found['steps'], 'step')}"
        click.echo(f"{what}: {found['weights_digest']}")
