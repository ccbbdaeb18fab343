"""zoplat replay: weights rebuilt from a journal."""

from pathlib import Path

import click

from zoplat.cli.options import OUTPUT, PLUGIN, TRUST, echo_json
from zoplat.cli.terminal import echo
from zoplat.core.errors import RunFailed
from zoplat.core.notices import counted


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Write the weights to this folder.")
@click.option("--device", metavar="NAME", help="Rebuild them on this device.  [default: the run's own]")
@PLUGIN
@TRUST
@OUTPUT
def replay(run: Path, to: Path | None, device: str | None, as_json: bool) -> None:
    """Rebuild the final weights of RUN from its journal, without a forward pass."""
    from zoplat.training.directory import RunDirectory
    from zoplat.training.replay import replay as rebuild

    found = rebuild(RunDirectory.existing(run), to, device)
    if as_json:
        echo_json(found)
    else:
        echo(f"{counted(found['steps'], 'step')} rebuilt: {found['weights_digest']}")
        if to:
            click.echo(f"written to {to}")
        for line in found["versions"]:
            click.echo(f"another version: {line}")
    if found["status"] == "different":
        raise RunFailed(
            f"The run ended with {found['recorded_digest']}. The bits are the same only for the same noise, dtype and "
            "kind of device; environment.json has those of the run."
        )
    if found["recorded_digest"] and not as_json:
        click.echo("the same bits as the run ended with")
