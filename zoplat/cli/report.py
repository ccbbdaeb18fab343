"""zoplat report: finished runs as a page."""

from pathlib import Path

import click

from zoplat.cli.options import OUTPUT, echo_json
from zoplat.core.errors import ZoplatError


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Folder, or one file whose ending names the format.  [default: that of the run or comparison; else report/]",
)
@click.option("--format", "formats", metavar="NAME,…", default="html,md", show_default=True, help="Those below.")
@click.option("--baseline", metavar="METHOD", default="", help="What others are compared with.  [default: mezo]")
@click.option(
    "--target", metavar="SCORE", type=click.FloatRange(0, 1), help="Dev score to count passes and seconds to."
)
@OUTPUT
def report(
    runs: tuple[Path, ...], to: Path | None, formats: str, baseline: str, target: float | None, as_json: bool
) -> None:
    """Write a report of a run, or of several RUNS and folders of `zoplat compare` as one comparison.

    Formats: html, a single file that needs no network; md, with its figures; csv and parquet, with one row a run; tex,
    with the table of scores for booktabs; jsonl and jsonl.gz, all that a report of a comparison needs, in one file that
    can be given in place of the folder; toml, with the settings that make the comparison again.
    """
    from zoplat.report.formats import FORMATS
    from zoplat.report.report import write

    names = [name.strip() for name in formats.split(",") if name.strip()]
    if unknown := [name for name in names if name not in FORMATS] or not names:
        raise ZoplatError(f"--format {formats}: {unknown} is none of {', '.join(FORMATS)}.")
    folder = to or (runs[0] if len(runs) == 1 and not runs[0].is_file() else Path("report"))
    files = [str(path) for path in write(runs, folder, names, baseline=baseline, target=target)]
    if as_json:
        echo_json({"status": "done", "files": files})
    else:
        click.echo("\n".join(files))
