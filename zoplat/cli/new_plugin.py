"""zoplat new-plugin: a package with one part, to begin with."""

from pathlib import Path

import click

from zoplat.cli.options import OUTPUT, echo_json


@click.command("new-plugin")
@click.argument("kind", type=click.Choice(["estimator", "sampler", "step-rule", "device", "task"]))
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), help="Folder of the package.  [default: ./zoplat-NAME]")
@OUTPUT
def new_plugin(kind: str, name: str, to: Path | None, as_json: bool) -> None:
    """Write a package that registers the part NAME of a KIND: code, tests, entry point and README.

    It installs with pip and passes its tests and `zoplat check` as it is; then put your own algorithm into it.
    """
    from zoplat.testing.scaffold import write_plugin

    files = write_plugin(kind, name, to)
    folder = files[0].parent
    if as_json:
        echo_json({"folder": str(folder), "files": [str(path) for path in files]})
        return
    for path in files:
        click.echo(f"written: {path}")
    click.echo(f"Next: pip install -e {folder}, and zoplat check {folder}")
