"""The report of a comparison: its sections, in order; what several modules make is put together here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoplat.comparison.plugins import of_terms, shown
from zoplat.core.errors import unknown
from zoplat.report.examples import predictions_of
from zoplat.report.pages import Folded, Listing, Part, Rows, Section
from zoplat.report.study.choice import choice_parts
from zoplat.report.study.figures import looks
from zoplat.report.study.forgetting import forgetting_parts
from zoplat.report.study.learning import learning_parts
from zoplat.report.study.memory import front_parts, memory_parts
from zoplat.report.study.reading import Method, Study
from zoplat.report.study.scores import amount, comparison_parts, percent, profile_parts, score_parts

MOST = 4
"""Methods whose predictions are shown."""
OWN = "estimator."


def study_sections(study: Study, baseline: str = "", target: float | None = None) -> list[Section]:
    """The sections of a comparison's report.

    Args:
        study: the comparison.
        baseline: label of the method that others are compared with; `Study.baseline` when empty.
        target: dev score in [0, 1] to which passes and seconds are counted; by default half of the best gain.

    Raises:
        ZoplatError: there is no such label.
    """
    if baseline and baseline not in study.labels:
        raise unknown("method", baseline, study.labels, f"--baseline takes one of: {', '.join(study.labels)}")
    baseline = baseline or study.baseline
    known = looks(study.labels)
    return [
        Section("Scores", score_parts(study)),
        Section("Which to take", choice_parts(study)),
        Section(f"Against {baseline}" if baseline else "Against each other", comparison_parts(study, baseline)),
        Section("Learning", learning_parts(study, known, target)),
        *([Section("Profiles", profile_parts(study, known))] if study.everywhere else []),
        Section("Score and memory", front_parts(study, known)),
        Section("Memory", memory_parts(study)),
        Section("Forgetting", forgetting_parts(study)),
        Section("Costs", _costs(study)),
        Section("Settings", _settings(study)),
        Section("Predictions", _predictions(study)),
        Section("Doing it again", _commands(study)),
        Section("Environment", _environment(study)),
    ]


def _costs(study: Study) -> list[Part]:
    body = [_cost(method) for method in study.methods if method.is_trained]
    if not body:
        return ["No method here was trained."]
    head = (
        "method",
        "task",
        "steps",
        "skipped",
        "passes",
        "scoring passes",
        "seconds of steps",
        "ms a pass",
        "seconds",
    )
    return [
        Rows(head, body, words=2).without_constant("task"),
        *_tokens_and_joules(study),
        "Means over seeds. Passes are evaluations of a batch loss that training asked for, whoever asked; a forward "
        "and a backward pass count as three. Where several runs went on at a time, their seconds are longer for it.",
    ]


def _tokens_and_joules(study: Study) -> list[Part]:
    """A table of both, where they are on record."""
    trained = [method for method in study.methods if method.is_trained]
    known = [(method, method.mean("tokens"), method.mean("joules")) for method in trained]
    body = [
        [method.label, method.task, *("–" if value is None else amount(value) for value in (tokens, joules))]
        for method, tokens, joules in known
        if tokens is not None or joules is not None
    ]
    if not body:
        return []
    is_measured = any(joules is not None for _, _, joules in known)
    return [
        Rows(("method", "task", "tokens", "joules"), body, words=2).without_constant("task"),
        "Tokens are those of the batches, once for each forward pass."
        + (
            " Joules are those of the machine's processors and GPUs in steps, other work on them included."
            if is_measured
            else " Energy: no counter of this machine could be read."
        ),
    ]


def _cost(method: Method) -> list[str]:
    names = ("steps", "skipped_steps", "forward_passes", "evaluation_passes", "seconds_training", "seconds")
    steps, skipped, passes, scoring, training, seconds = (method.mean(name) for name in names)
    pace = 1000 * training / passes if training is not None and passes else None
    values = (steps, skipped, passes, scoring, training, pace, seconds)
    return [method.label, method.task, *("–" if value is None else amount(value) for value in values)]


def _settings(study: Study) -> list[Part]:
    parts: list[Part] = []
    if study.chosen:
        body = [
            [
                str(cell.get("label") or cell.get("estimator")),
                Path(str(cell.get("task", ""))).stem,
                _pairs(cell.get("settings") or {}),
                "–" if cell.get("dev") is None else percent(cell["dev"]),
                f"{len(cell.get('trials') or [])}",
                f"{sum(trial.get('passes') or 0 for trial in cell.get('trials') or []):,}",
            ]
            for cell in study.chosen
        ]
        head = ("method", "task", "chosen by search", "dev, %", "trials", "passes of trials")
        parts += [
            "Each method searched its own ranges with the same number of trials; the best on dev was chosen, test rows "
            "had no part in it.",
            Rows(head, body, words=3).without_constant("task"),
            Folded("All trials", [_trials(study.chosen)]),
        ]
    else:
        parts.append("No search for settings is on record here: these were given, or are the usual ones.")
    tasks: dict[tuple[str, str], list[str]] = {}
    for method in study.methods:
        tasks.setdefault((method.label, _pairs(_own(method)) or "–"), []).append(method.task)
    own = [[label, ", ".join(names), settings] for (label, settings), names in tasks.items()]
    parts.append(Rows(("method", "task", "settings of the method"), own, words=3).without_constant("task"))
    common = _common([_others(method) for method in study.methods if method.is_trained])
    if common:
        parts.append(Folded("Settings and data that all of them share", [Listing(_lines(common), "text")]))
    return parts


def _trials(chosen: Sequence[dict[str, Any]]) -> Rows:
    body = [
        [
            str(cell.get("label") or cell.get("estimator")),
            Path(str(cell.get("task", ""))).stem,
            _pairs(trial.get("settings") or {}),
            "–" if trial.get("dev") is None else percent(trial["dev"]),
            str(trial.get("state") or trial.get("reason") or "done"),
        ]
        for cell in chosen
        for trial in cell.get("trials") or []
    ]
    return Rows(("method", "task", "settings", "dev, %", "state"), body, words=3).without_constant("task")


def _pairs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{path.removeprefix(OWN)} {_short(value)}" for path, value in settings.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _own(method: Method) -> dict[str, str]:
    """Settings of the estimator and its parts, without its name."""
    return {key: value for key, value in method.group.terms.items() if key.startswith(OWN) and key != f"{OWN}name"}


def _others(method: Method) -> dict[str, str]:
    return {key: value for key, value in method.group.terms.items() if not key.startswith(OWN)}


def _common(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """What all tables have with the same value."""
    first = tables[0] if tables else {}
    return {key: value for key, value in first.items() if all(table.get(key) == value for table in tables)}


def _lines(table: dict[str, str]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in table.items())


def _predictions(study: Study) -> list[Part]:
    """The first test rows of each task, with what the first seed of the best methods predicted."""
    parts: list[Part] = []
    for task in study.tasks:
        runs = [(method.label, method.runs[0].predictions) for method in study.on(task)]
        kept = [one for one in runs if len(one[1]) > 1][:MOST]
        parts += [f"Task `{task}`:"] if len(study.tasks) > 1 else []
        parts += predictions_of(kept)
    return parts


def _commands(study: Study) -> list[Part]:
    lines = [
        f"zoplat run --config {shlex.quote(f'{run.place}/config.toml')} --out {shlex.quote(f'{run.place}-again')}"
        f"{shown(of_terms(run.terms))}"
        for method in study.methods
        if method.is_trained
        for run in method.runs
    ]
    parts: list[Part] = []
    if study.command:
        parts += ["The whole comparison; into another folder, or its runs are not made anew:"]
        parts.append(Listing(study.command, "sh"))
    if lines:
        single = Listing("\n".join(lines), "sh")
        parts += ["Each run by itself; on the same versions, device and threads it ends with the same weights:"]
        parts.append(single if len(lines) <= MOST else Folded(f"{len(lines)} commands", [single]))
    return parts or ["Nothing here was trained."]


def _environment(study: Study) -> list[Part]:
    """Facts on record that all runs share, and those that differ."""
    tables = [
        {name: _fact(value) for name, value in run.environment.items() if value is not None}
        for method in study.methods
        for run in method.runs
        if run.environment
    ]
    if not tables:
        return ["Not on record."]
    common = _common(tables)
    apart = [name for name in dict.fromkeys(key for table in tables for key in table) if name not in common]
    differing = [
        (name, " | ".join(dict.fromkeys(table.get(name, "–") for table in tables)))
        for name in apart
        if name not in ("seed", "estimator", "start_digest")
    ]
    parts: list[Part] = [Rows(("", ""), [*common.items()])]
    if differing:
        parts += ["Not the same for all runs:", Rows(("", ""), differing)]
    return parts


def _fact(value: Any) -> str:
    return ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
