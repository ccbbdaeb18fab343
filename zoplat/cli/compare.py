"""zoplat compare: a matrix of runs, in one table."""

from pathlib import Path
from typing import Any

import click

from zoplat.cli.options import (
    BUDGET,
    ESTIMATOR,
    JSON,
    PARTS,
    SEED,
    SETTINGS,
    WORK,
    Sectioned,
    as_settings,
    echo_json,
    flags,
)
from zoplat.core.errors import ZoplatError


@click.command(cls=Sectioned)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--estimators", metavar="NAME,…|all", help="Methods; also zero-shot, icl-32 and linear-probe.")
@click.option("--tasks", metavar="NAME,…", default="", help="Each method is run on each of these.")
@click.option("--seeds", metavar="N,…", default="0", show_default=True, help="Each method is run with each of these.")
@flags([flag for group in (PARTS, WORK, BUDGET, SETTINGS) for flag in group if flag not in (ESTIMATOR, SEED)])
@click.option("--published", metavar="MODEL", help="Show published scores of this model beside: opt-13b, …")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/compare"), help="Folder of the runs.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time.")
@JSON
def compare(
    runs: tuple[Path, ...],
    estimators: str | None,
    tasks: str,
    seeds: str,
    published: str | None,
    out: Path,
    jobs: int,
    as_json: bool,
    **given: Any,
) -> None:
    """One table of existing RUNS, or of a matrix of methods, tasks and seeds under the same settings.

    A run that is already in --out is not repeated, so an interrupted comparison continues where it stopped.
    """
    from zoplat.compare.matrix import matrix
    from zoplat.compare.planned import FailedRun
    from zoplat.compare.published import Published
    from zoplat.compare.table import markdown, read_runs, table, write

    beside = Published.of(published) if published else None
    if bool(runs) == bool(estimators):
        raise ZoplatError("Give run directories, or --estimators NAME,… (or all) to make the runs first.")
    failed: list[FailedRun] = []
    if runs:
        finished = read_runs(runs)
    else:
        settings = {name: value for name, value in as_settings(given).items() if value is not None}
        chosen, on = _names(str(estimators)), _names(tasks)
        try:
            finished, failed = matrix(settings, chosen, _numbers(seeds), out, _report, jobs, on)
        except KeyboardInterrupt:
            _report("Runs that are over are kept, and so is what the others did: the same command goes on.")
            raise
    rows = table(finished)
    if not runs:
        out.mkdir(parents=True, exist_ok=True)
        write(out, rows, failed, beside)
    if as_json:
        echo_json({"rows": rows, "failed": [vars(run) for run in failed]})
    else:
        click.echo(markdown(rows, beside), nl=False)
        for run in failed:
            click.echo(f"{run.estimator}, {run.task}, seed {run.seed}: {run.reason}", err=True)
    if failed:
        raise SystemExit(1)


def _report(text: str) -> None:
    click.echo(text, err=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ZoplatError(f"--seeds takes whole numbers with commas between them, got '{text}'.") from None
