"""zoplat compare: a matrix of runs, in one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.options import (
    BUDGET,
    DRY_RUN,
    ESTIMATOR,
    FORGETTING,
    OUTPUT,
    PARTS,
    PLUGIN,
    RETRY,
    SEED,
    SETTINGS,
    TUNE_TRIALS,
    WORK,
    Sectioned,
    as_settings,
    echo_json,
    flags,
    plugin_files,
)
from zoplat.cli.terminal import echo, notes
from zoplat.core.errors import Interrupted, ZoplatError

if TYPE_CHECKING:
    from zoplat.comparison.study import Study

NAMES = {
    "estimators": click.option("--estimators", metavar="NAME,…|all", help="Methods; also zero-shot, icl-32, …"),
    "samplers": click.option("--samplers", metavar="NAME,…", help="Each method with each of these laws."),
    "step_rules": click.option("--step-rules", metavar="NAME,…", help="Each method with each of these rules."),
    "tasks": click.option("--tasks", metavar="NAME,…", help="Each method is run on each of these."),
    "models": click.option("--models", metavar="ID,…", help="Each method is run on each of these."),
    "tunes": click.option("--tunes", metavar="NAME,…", help="Each method trains each of these weights."),
}
"""Axes of the matrix, as names with commas between them."""
MATRIX = [
    *NAMES.values(),
    click.option("--seeds", metavar="N,…", help="Each method is run with each of these.  [default: 0]"),
    TUNE_TRIALS,
    click.option("--trial-passes", type=click.IntRange(1), help="Forward passes of a trial.  [default: as a run]"),
    click.option("--tune-seed", type=int, help="Seed of the trials.  [default: 1000]"),
]
STUDY = [
    click.option("--out", type=click.Path(path_type=Path), help="Folder of the study.  [default: runs/compare]"),
    click.option("--join", type=click.Path(path_type=Path), help="Work on the study in this folder too."),
    click.option("--storage", metavar="URL", help="Database of the trials.  [default: study.db in the folder]"),
    click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time."),
    RETRY,
    DRY_RUN,
]


@click.command(cls=Sectioned)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@flags(
    MATRIX,
    [
        flag
        for group in (PARTS, WORK, BUDGET, [FORGETTING], SETTINGS)
        for flag in group
        if flag not in (ESTIMATOR, SEED)
    ],
)
@click.option("--published", metavar="MODEL", help="Show published scores of this model beside: opt-13b, …")
@flags(STUDY)
@PLUGIN
@OUTPUT
def compare(
    runs: tuple[Path, ...],
    published: str | None,
    out: Path | None,
    join: Path | None,
    storage: str | None,
    jobs: int,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """One table of existing RUNS, or of a matrix of methods, tasks and seeds under the same settings.

    What is already in --out is not repeated, so an interrupted comparison continues where it stopped. The same command
    in another process, or --join FOLDER on another machine that sees the folder, takes a share of what is left.
    """
    from zoplat.calls.compare import compare as compared

    axes = _axes(given)
    if dry_run and not runs:
        _forecast(_study(given, axes, out, join, storage or ""), jobs, as_json)
        return
    try:
        result = compared(
            *runs,
            out=out,
            join=join,
            storage=storage or "",
            jobs=jobs,
            retry_failed=retry_failed,
            published=published,
            plugin=plugin_files(),
            progress=notes(),
            **axes,
            **as_settings(given),
        )
    except Interrupted:
        raise KeyboardInterrupt from None  # what to do is said already
    if as_json:
        of_runs = {"rows": result.rows, "failed": [], "notes": [*result.outcome.notes]}
        echo_json(of_runs if runs else result.outcome.to_json())
    else:
        echo(result.markdown(), end=False)
        for line in (*result.failed, *result.violations):
            click.echo(str(line), err=True)
    if result.failed or result.violations:
        raise SystemExit(1)


def _study(given: dict[str, Any], axes: dict[str, Any], out: Path | None, join: Path | None, storage: str) -> "Study":
    """What flags and settings file ask for."""
    from zoplat.calls.compare import study_of

    settings = {name: value for name, value in as_settings(given).items() if value not in (None, {})}
    chosen = {name: value for name, value in axes.items() if value is not None}
    return study_of(settings, chosen, out, join, storage, plugin_files())


def _forecast(study: "Study", jobs: int, as_json: bool) -> None:
    """Print what a study will take."""
    from zoplat.comparison.dry_run import dry_run

    found = dry_run(study, jobs)
    if as_json:
        echo_json(found)
    else:
        click.echo("".join(f"{name}: {value}\n" for name, value in found.items()), nl=False)


def _axes(given: dict[str, Any]) -> dict[str, Any]:
    """The flags of the matrix, taken out of all that were given; None where they were not."""
    axes = {name: names_in(text) if (text := given.pop(name)) is not None else None for name in NAMES}
    seeds = given.pop("seeds")
    numbers = {name: given.pop(name) for name in ("tune_trials", "trial_passes", "tune_seed")}
    return {**axes, "seeds": None if seeds is None else _numbers(seeds), **numbers}


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ZoplatError(f"--seeds takes whole numbers with commas between them, got '{text}'.") from None
