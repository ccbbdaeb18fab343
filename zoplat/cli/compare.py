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
from zoplat.cli.terminal import echo, note, notes
from zoplat.core.errors import ZoplatError

if TYPE_CHECKING:
    from zoplat.comparison.outcome import Outcome
    from zoplat.comparison.published import Published
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
    from zoplat.comparison.published import Published
    from zoplat.comparison.table import markdown, read_runs, table

    beside = Published.of(published) if published else None
    axes = _axes(given)
    if runs:
        if any(axes.values()) or join:
            raise ZoplatError("Give run directories, or --estimators NAME,… (or all) to make the runs first.")
        rows = table(read_runs(runs))
        if as_json:
            echo_json({"rows": rows, "failed": []})
        else:
            echo(markdown(rows, beside), end=False)
        return
    study = _study(given, axes, out, join, storage or "")
    if dry_run:
        _forecast(study, jobs, as_json)
        return
    outcome = made(study, jobs, retry_failed, beside)
    if as_json:
        echo_json(outcome.to_json())
    else:
        echo(outcome.markdown(beside), end=False)
        for line in (*outcome.failed, *outcome.violations):
            _report(str(line))
    if outcome.failed or outcome.violations:
        raise SystemExit(1)


def _study(given: dict[str, Any], axes: dict[str, Any], out: Path | None, join: Path | None, storage: str) -> "Study":
    """What flags and settings file ask for."""
    from zoplat.comparison.matrix import Matrix
    from zoplat.comparison.study import Study

    settings = {name: value for name, value in as_settings(given).items() if value not in (None, {})}
    if join:
        if settings or any(value is not None for value in axes.values()) or out:
            raise ZoplatError(
                "--join takes all from the study in its folder; only --jobs, --storage and --plugin go with it."
            )
        return Study.joined(join, storage, plugin_files())
    return Study(out or Path("runs/compare"), Matrix.of(settings, axes), storage, plugin_files())


def made(study: "Study", jobs: int, retry_failed: bool, beside: "Published | None" = None) -> "Outcome":
    """The outcome of a study, once all of it is over."""
    from zoplat.comparison.outcome import Outcome
    from zoplat.comparison.work import Workers

    study.prepare()
    workers = Workers(study, jobs, notes())
    if retry_failed:
        workers.retry()
    for line in study.remarks():
        note(line)
    try:
        workers.work()
    except KeyboardInterrupt:
        _report("Runs that are over are kept, and so is what the others did: the same command goes on.")
        raise
    workers.settle()
    outcome = Outcome.of(study)
    outcome.write(study, beside)
    return outcome


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


def _report(text: str) -> None:
    click.echo(text, err=True)


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ZoplatError(f"--seeds takes whole numbers with commas between them, got '{text}'.") from None
