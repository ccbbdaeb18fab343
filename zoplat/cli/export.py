"""zoplat export: the result of a run in the form that other programs load."""

from pathlib import Path

import click

from zoplat.cli.options import OUTPUT, PLUGIN, TRUST, echo_json


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), required=True, help="Folder for the result.")
@PLUGIN
@TRUST
@OUTPUT
def export(run: Path, to: Path, as_json: bool) -> None:
    """Write the result of RUN: an adapter for peft, or a checkpoint for transformers."""
    from zoplat.training.directory import RunDirectory
    from zoplat.training.export import check_target
    from zoplat.training.export import export as write
    from zoplat.training.opening import restored

    directory = RunDirectory.existing(run)
    check_target(to, directory.read_config().model)
    _, session = restored(directory)
    files = write(session, to)
    if as_json:
        echo_json({"status": "done", "to": str(to), "files": files, "weights_digest": session.digest()})
    else:
        click.echo(f"{to}: {', '.join(files)}")
