"""`zoplat.compare`: a matrix of runs in one table, as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from zoplat.calls.frames import frame, history, pandas
from zoplat.calls.plugins import Files, registered
from zoplat.calls.progress import is_notebook
from zoplat.comparison.audit import Violation
from zoplat.comparison.matrix import AXES, NUMBERS, Matrix
from zoplat.comparison.outcome import Outcome
from zoplat.comparison.planned import FailedRun
from zoplat.comparison.published import Published
from zoplat.comparison.study import Study
from zoplat.comparison.table import notes, read_runs, table
from zoplat.comparison.work import Workers
from zoplat.config.keywords import CompareSettings, Names, spelled_out
from zoplat.config.written import adopted
from zoplat.core.errors import Interrupted, RunFailed, ZoplatError
from zoplat.report.brief import comparison_in_brief
from zoplat.report.pages import Rows, piece
from zoplat.training.directory import RunDirectory

FOLDER = "runs/compare"
"""Of a comparison that names none."""
OF_PARTS = ("samplers", "step_rules", "estimators")
"""The axes that take parts."""


@dataclass(frozen=True)
class ComparisonResult:
    """What came of a comparison.

    Attributes:
        outcome: its rows, runs that failed, runs that broke the terms, and settings that a search chose.
        directory: its folder; None for a table of runs that were there already.
        runs: the run directories of the rows.
        published: published scores that are shown beside.
    """

    outcome: Outcome
    directory: Path | None
    runs: tuple[Path, ...]
    published: Published | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each method and task, the best test score first; see `comparison.table`."""
        return self.outcome.rows

    @property
    def failed(self) -> list[FailedRun]:
        """Runs and trials that failed, each with its reason. Empty where all went well."""
        return self.outcome.failed

    @property
    def violations(self) -> list[Violation]:
        """Runs that broke the terms of the comparison, and are in no row."""
        return self.outcome.violations

    @property
    def chosen(self) -> list[dict[str, Any]]:
        """By method and task, the settings that a search has chosen."""
        return self.outcome.chosen

    def table(self) -> Any:
        """The rows as a pandas frame.

        Raises:
            RunFailed: no run has ended well; the message has the reasons.
            ZoplatError: pandas is not installed.
        """
        if not self.rows:
            raise RunFailed("\n".join(["No run of the comparison has ended well:", *map(str, self.failed)]))
        return frame(self.rows, "table()")

    def history(self) -> Any:
        """The runs step by step, as a pandas frame whose index is the run's directory and the number of steps made.

        Raises:
            ZoplatError: pandas is not installed, or a run lost its journal.
        """
        trained = [path for path in self.runs if RunDirectory(path).journal.exists()]
        names = [str(path.relative_to(self.directory) if self.directory else path) for path in trained]
        return pandas("history()").concat([history(path) for path in trained], keys=names, names=["run"])

    def markdown(self) -> str:
        """The tables as text, as the command prints them."""
        return self.outcome.markdown(self.published)

    def _repr_html_(self) -> str:
        """The report in brief, for notebooks."""
        if not self.rows:
            failed = Rows(("method", "task", "seed", "reason"), [_failure(run) for run in self.failed], words=4)
            return piece("No run has ended well", [failed])
        return comparison_in_brief([self.directory] if self.directory else [*self.runs], self.directory)


@spelled_out(CompareSettings)
def compare(
    *runs: str | Path,
    out: str | Path | None = None,
    join: str | Path | None = None,
    storage: str = "",
    jobs: int = 1,
    retry_failed: bool = False,
    published: str | None = None,
    plugin: Files = (),
    progress: bool | Callable[[str], None] | None = None,
    **settings: Unpack[CompareSettings],
) -> ComparisonResult:
    """One table of existing runs, or of a matrix of methods, tasks and seeds under the same settings.

    What is already in `out` is not repeated, so the same call goes on with an interrupted comparison. Each run is made
    in a process of its own. Classes of a notebook are written to files in the folder of the comparison for these.

    Args:
        runs: run directories; then nothing is run.
        out: folder of the comparison; runs/compare when None.
        join: a folder whose comparison is worked on too, with all that was asked there.
        storage: URL of the database of trials; a file in the folder when empty.
        jobs: runs at a time.
        retry_failed: whether to try again what failed.
        published: a model whose published scores are shown beside, such as "opt-13b".
        plugin: Python files whose parts are used too.
        progress: whether to print a line when a run begins and when one fails, or what is called with it; None for in
            notebooks only.
        settings: the flags of the command, with underscores. An axis such as `estimators` is a name, a list of names,
            or a table of settings by name: {"mezo": {}, "lozo": {"sampler": {"rank": 4}}}. Estimators, samplers and
            step rules may be values or classes too, also such as no plugin registers.

    Returns:
        The result, with `.rows`, `.failed`, `.table()`, `.history()` and `.directory`; a notebook shows it as a report.
        Runs that failed raise nothing: they are in `.failed`.

    Raises:
        ZoplatError: where the command would exit with 2.
        Interrupted: on KeyboardInterrupt; runs that are over are kept, and so is what the others did.
    """
    beside = Published.of(published) if published else None
    files = registered(plugin)
    given = {name: value for name, value in settings.items() if value is not None and value != {}}
    axes = {name: given.pop(name) for name in (*AXES, *NUMBERS) if name in given}
    if runs:
        if axes or join:
            raise ZoplatError("Give run directories, or --estimators NAME,… (or all) to make the runs first.")
        paths = tuple(map(Path, runs))
        read = read_runs(paths)
        return ComparisonResult(Outcome(table(read), [], [], [], [], {}, notes(read)), None, paths, beside)
    for axis in [axis for axis in OF_PARTS if axis in axes]:
        axes[axis], own = adopted(axes[axis], Path(out or FOLDER) / "plugins")
        files += registered(own)
    study = study_of(given, axes, out, join, storage, files)
    say = progress if callable(progress) else _speaker(progress)
    try:
        outcome = made(study, jobs, retry_failed, say, beside)
    except KeyboardInterrupt:
        again = f", plugin={[*map(str, files)]}" if files else ""
        raise Interrupted(study.folder, f"zoplat.compare(join={str(study.folder)!r}{again})") from None
    directories = tuple(study.folder / run["directory"] for run in outcome.runs)
    return ComparisonResult(outcome, study.folder, directories, beside)


def study_of(
    settings: Mapping[str, Any],
    axes: Mapping[str, Any],
    out: str | Path | None = None,
    join: str | Path | None = None,
    storage: str = "",
    plugins: tuple[Path, ...] = (),
) -> Study:
    """The comparison that settings ask for.

    Args:
        settings: that all runs have.
        axes: the axes and numbers of the matrix that are given.
        out: its folder; runs/compare when None.
        join: the folder of a comparison that is there already.
        storage: URL of the database of trials.
        plugins: files whose parts take part, registered already.

    Raises:
        ZoplatError: `join` together with anything that it says itself, an axis beside its only value, or settings
            that can't be.
    """
    if join:
        if settings or axes or out:
            raise ZoplatError(
                "--join takes all from the study in its folder; only --jobs, --storage and --plugin go with it."
            )
        return Study.joined(Path(join), storage, plugins)
    for axis in axes:
        if (one := axis[:-1]) in settings:  # such as task beside tasks
            flags = [f"--{name.replace('_', '-')}" for name in (axis, one)]
            raise ZoplatError(f"{' and '.join(flags)} say the same, each its own. Leave one of them out.")
    chosen = {name: axis_of(name, value) if name in AXES else value for name, value in axes.items()}
    if isinstance(seeds := chosen.get("seeds"), int):
        chosen["seeds"] = (seeds,)
    elif seeds is not None:
        chosen["seeds"] = tuple(seeds)
    return Study(Path(out or FOLDER), Matrix.of(settings, chosen), storage, plugins)


def axis_of(axis: str, names: Names) -> Names:
    """An axis as the matrix takes it: a tuple of names, or a table of settings by name.

    Raises:
        ZoplatError: it has a part as a value, which the processes of the runs would not know.
    """
    if isinstance(names, Mapping):
        return names
    listed = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Sequence) else (names,)
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise ZoplatError(
            f"{axis} has {wrong[0]!r}. Each run of a comparison is a process of its own, so it takes names: of "
            "registered parts, with settings as {'mezo': {'eps': 1e-3}}. Estimators, samplers and step rules may be "
            "values; a task or anything else of your own goes into a file with a hook, given as plugin='FILE.py'."
        )
    return listed


def made(
    study: Study, jobs: int, retry_failed: bool, say: Callable[[str], None], beside: Published | None = None
) -> Outcome:
    """The outcome of a study, once all of it is over.

    Args:
        study: which is prepared here.
        jobs: runs at a time.
        retry_failed: whether to try again what failed.
        say: is called with a line when a run begins, and when one fails.
        beside: published scores, shown in the files.
    """
    study.prepare()
    workers = Workers(study, jobs, say)
    if retry_failed:
        workers.retry()
    for line in study.remarks():
        say(line)
    try:
        workers.work()
    except KeyboardInterrupt:
        say("Runs that are over are kept, and so is what the others did: the same command goes on.")
        raise
    workers.settle()
    outcome = Outcome.of(study)
    outcome.write(study, beside)
    return outcome


def _failure(run: FailedRun) -> list[str]:
    return [run.estimator, run.task, str(run.seed), run.reason]


def _speaker(progress: bool | None) -> Callable[[str], None]:
    """What says how far a comparison is."""
    is_shown = is_notebook() if progress is None else progress
    return print if is_shown else lambda _: None
