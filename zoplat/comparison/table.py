"""The table of a comparison: one row per method and task, as records and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Generic, TypeVar

from zoplat.comparison.published import Published
from zoplat.comparison.terms import FinishedRun, labels
from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Peak, Summary

Run = TypeVar("Run", bound=FinishedRun)
MIB = 1 << 20
COLUMNS = {
    "label": "method",
    "score": "test score",
    "dev": "dev score",
    "forward_passes": "passes",
    "steps": "steps",
    "seconds_training": "seconds",
    "peak": "peak MiB",
    "above_inference": "above inference, MiB",
    "runs": "runs",
}
"""Keys of a row → headings of the table."""
FORGETTING = ("general loss, nats", "KL to the start, nats")
"""Headings of columns that are there where a run has measured forgetting."""
FORMATS: dict[str, Callable[[float], str]] = {
    "dev": lambda x: f"{100 * x:.1f}",
    "forward_passes": lambda x: f"{x:,.0f}",
    "steps": lambda x: f"{x:,.0f}",
    "seconds_training": lambda x: f"{x:.0f}",
    "peak": lambda x: f"{x / MIB:,.0f}",
    "above_inference": lambda x: f"{x / MIB:,.0f}",
}


def read_runs(paths: Iterable[Path]) -> list[FinishedRun]:
    """Finished runs.

    Raises:
        ZoplatError: one of the paths is no run directory, or its run is not finished.
    """
    runs = []
    for path in paths:
        directory = RunDirectory.existing(path)
        summary = directory.read_summary()
        if summary is None or summary.status != "done":
            raise ZoplatError(f"{path} is not finished; `zoplat run --resume --out {path}` goes on with it.")
        runs.append(FinishedRun.of(summary, directory))
    return runs


@dataclass(frozen=True)
class Group(Generic[Run]):
    """Runs that may share a mean.

    Attributes:
        label: the method, and in what its terms differ from those of other groups of it.
        method: its name in the table.
        estimator, task: of all of them.
        terms: what their numbers depend on, see `compare.terms`.
        runs: one a seed.
    """

    label: str
    method: str
    estimator: str
    task: str
    terms: Mapping[str, str]
    runs: tuple[Run, ...]


def groups(runs: Iterable[Run]) -> list[Group[Run]]:
    """Runs of one method on one task under the same terms, task by task; of several with one seed the first counts.

    Files of a task are one task where their names are the same, wherever they were found; rows that differ are terms.
    """
    methods: dict[tuple[str, str], list[Run]] = {}
    spelled: dict[str, str] = {}
    for run in runs:
        task = spelled.setdefault(Path(run.summary.task).name, run.summary.task)
        methods.setdefault((run.method or run.summary.estimator, task), []).append(run)
    tasks = list(dict.fromkeys(task for _, task in methods))
    found = [group for (name, task), own in methods.items() for group in _groups(name, task, own)]
    return sorted(found, key=lambda group: tasks.index(group.task))


def _groups(name: str, task: str, runs: Sequence[Run]) -> Iterator[Group[Run]]:
    """The groups of one method on one task."""
    terms: list[Mapping[str, str]] = []
    for run in runs:
        if run.terms not in terms:
            terms.append(run.terms)
    for label, some in zip(labels(name, terms), terms, strict=True):
        by_seed: dict[Any, Run] = {}
        for run in runs:
            if run.terms == some:
                by_seed.setdefault(run.summary.seed, run)
        own = tuple(by_seed.values())
        yield Group(label, name, own[0].summary.estimator, task, some, own)


def differences(found: Sequence[Group[Any]]) -> list[str]:
    """Terms, those of the method aside, and costs that are not the same for all trained methods on a task."""
    names: dict[str, None] = {}
    for task in dict.fromkeys(group.task for group in found):
        trained = [group for group in found if group.task == task and group.runs[0].summary.steps]
        terms = [group.terms for group in trained]
        keys = dict.fromkeys(key for one in terms for key in one if not key.startswith("estimator."))
        names |= dict.fromkeys(key for key in keys if len({one.get(key) for one in terms}) > 1)
        passes = [_mean([run.summary for run in group.runs], "forward_passes") or 0 for group in trained]
        if passes and max(passes) > 1.1 * min(passes):
            names["forward passes"] = None
    return [*names]


def notes(runs: Sequence[FinishedRun]) -> list[str]:
    """What a reader of the table of some runs has to know: what else differs, and which of them are not in it."""
    made, found = groups(runs), []
    if apart := differences(made):
        found.append(f"Not the same for all methods of a task, beside their own settings: {', '.join(apart)}.")
    counted = {id(run) for group in made for run in group.runs}
    left = [f"{run.method or run.summary.estimator}, seed {run.summary.seed}" for run in runs if id(run) not in counted]
    if left:
        found.append(f"Not counted, as another run before has the same method, settings and seed: {'; '.join(left)}.")
    return found


def table(runs: Iterable[FinishedRun]) -> list[dict[str, Any]]:
    """One row for each group, task by task, best test score first.

    Scores are means over seeds in [0, 1], `score_sd` their standard deviation. Runs of a method whose terms differ are
    rows of their own, whose labels say in what.
    """
    made = groups(runs)
    tasks = list(dict.fromkeys(group.task for group in made))
    rows = [
        {"label": group.label, "method": group.method, **_row(group.task, [run.summary for run in group.runs])}
        for group in made
    ]
    return sorted(rows, key=lambda row: (tasks.index(row["task"]), -row["score"]))


def _row(task: str, group: Sequence[Summary]) -> dict[str, Any]:
    scores = [summary.test_after for summary in group]
    row = {
        **{name: getattr(group[0], name) for name in ("estimator", "sampler", "step_rule", "model", "tune")},
        "task": task,
        "score": mean(scores),
        "score_sd": stdev(scores) if len(scores) > 1 else None,
        "before": _mean(group, "test_before"),
        "dev": _mean(group, "dev_after"),
        "peak": None,
        "above_inference": None,
        "runs": len(group),
    }
    if group[0].step_peak_bytes:
        peaks = [(_bytes(summary.step_peak_bytes), _bytes(summary.forward_peak_bytes)) for summary in group]
        row["peak"] = max(step for step, _ in peaks)
        row["above_inference"] = mean(step - forward for step, forward in peaks)
    is_measured = len({summary.general_text for summary in group}) == 1
    for key in ("general_loss_before", "general_loss_after", "general_kl"):
        row[key] = _mean(group, key) if is_measured else None
    plain = ("forward_passes", "steps", "seconds_training", "skipped_steps")
    return {**row, **{key: _mean(group, key) for key in plain}}


def _bytes(peak: Peak) -> int:
    """The peak of the device's own memory, or of the host's where it has none."""
    return peak.device or peak.host


def _mean(group: Sequence[Summary], name: str) -> float | None:
    """Mean of a field; None where the model was evaluated without training and has no such number."""
    return None if getattr(group[0], name) is None else mean(getattr(summary, name) for summary in group)


def markdown(rows: Sequence[dict[str, Any]], published: Published | None = None) -> str:
    """The table as Markdown: costs and scores of each method, or for several tasks a column of scores for each task.

    Args:
        rows: of `table`.
        published: published scores of a model, shown beside those of several tasks.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(tasks) > 1:
        return _grid(rows, tasks, published)
    if all(row.get("general_kl") is None for row in rows):
        return markdown_table(list(COLUMNS.values()), [cells(row) for row in rows])
    head = [*COLUMNS.values(), *FORGETTING]
    return markdown_table(head, [[*cells(row), *forgetting_cells(_change(row), row["general_kl"])] for row in rows])


def cells(row: dict[str, Any]) -> list[str]:
    """The row as text, in the order of `COLUMNS`."""
    spread = f" ± {100 * row['score_sd']:.1f}" if row["score_sd"] is not None else ""
    texts = {**row, "score": f"{100 * row['score']:.1f}{spread}"}
    for name, form in FORMATS.items():
        texts[name] = "–" if row[name] is None else form(row[name])
    return [str(texts[name]) for name in COLUMNS]


def forgetting_cells(change: float | None, divergence: float | None) -> list[str]:
    """The change of the loss of general text and the divergence on it, as text."""
    return [
        "not measured" if change is None else f"{change:+.4f}",
        "not measured" if divergence is None else f"{divergence:.2g}",
    ]


def _change(row: dict[str, Any]) -> float | None:
    """By how much the loss of general text has risen; None where that was not measured."""
    before, after = row["general_loss_before"], row["general_loss_after"]
    return None if before is None or after is None else float(after - before)


def _grid(rows: Sequence[dict[str, Any]], tasks: Sequence[str], published: Published | None) -> str:
    """Methods by tasks, best mean score first; published scores in a column beside ours."""
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["label"], {})[row["task"]] = row
    head, body = ["method"], []
    for task in tasks:
        head += [Path(task).stem] + ([published.model] if published else [])
    for method, own in sorted(by_method.items(), key=lambda item: -mean(row["score"] for row in item[1].values())):
        line = [method]
        for task in tasks:
            line.append(cells(own[task])[1] if task in own else "–")
            if published:
                known = published.score(next(iter(own.values()))["estimator"], task)
                line.append("–" if known is None else f"{known:.1f}")
        body.append([*line, str(max(row["runs"] for row in own.values()))])
    estimators = dict.fromkeys(row["estimator"] for row in rows)
    sources = ["", *(f"- {published.model}, {line}" for line in published.sources(estimators))] if published else []
    return markdown_table([*head, "runs"], body) + "".join(f"{line}\n" for line in sources)


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: a heading for each column, the first one to the left, and lines of cells."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in body)]) + "\n"
