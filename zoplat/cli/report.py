"""zoplat report: a finished run as a page."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Folder for the pages.  [default: the run directory]")
def report(run: Path, to: Path | None) -> None:
    """Write a report of RUN: report.html, a single file, and report.md with its figures."""
    from zoplat.report.report import write
    from zoplat.training.directory import RunDirectory

    for path in write(RunDirectory.existing(run), to or run):
        click.echo(path)
