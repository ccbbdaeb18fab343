"""zoplat report: a run as a page."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Folder for the pages.  [default: the run directory]")
def report(run: Path, to: Path | None) -> None:
    """Draw RUN: report.html (self-contained) and report.md."""
    from zoplat.report.report import write
    from zoplat.training.directory import RunDirectory

    for path in write(RunDirectory.existing(run), to or run):
        click.echo(path)
