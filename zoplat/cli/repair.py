"""zoplat repair: a damaged run directory."""

import shlex
from pathlib import Path

import click

from zoplat.cli.options import OUTPUT, echo_json


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@OUTPUT
def repair(run: Path, as_json: bool) -> None:
    """Cut the journal of RUN back to its last whole line, drop what is damaged beside it, and say what was lost."""
    from zoplat.training.directory import RunDirectory
    from zoplat.training.repair import repair as mend

    lost = mend(RunDirectory.existing(run))
    if as_json:
        echo_json({"status": "repaired" if lost else "intact", "lost": lost})
        return
    for sentence in lost:
        click.echo(sentence)
    onward = f"`zoplat run --resume --out {shlex.quote(str(run))}` goes on with it."
    click.echo(onward if lost else f"{run}: nothing is damaged.")
