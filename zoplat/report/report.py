"""Reports of runs and comparisons: report.html, which is self-contained, report.md with its figures as files, and data.

Everything in them is read from run directories, so a report can be made again at any time and anywhere. This module
has the sections of a run; `account` reads its files, `memory` has the section on memory. `study` has those of a
comparison. `figures` draws, `pages` lays out, `formats` writes data.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zoplat.comparison.plugins import of_terms, shown
from zoplat.comparison.terms import terms_of
from zoplat.core.errors import ZoplatError
from zoplat.paths import check_writable, replace_bytes
from zoplat.report.account import MEANING, Account
from zoplat.report.examples import predictions_of
from zoplat.report.figures import WIDE, draw_learning, readable
from zoplat.report.formats import FORMATS, as_csv, as_latex, as_parquet, as_settings, run_rows
from zoplat.report.memory import memory_picture, training_beyond_inference
from zoplat.report.pages import Listing, Part, Picture, Rows, Scores, Section, markdown, page
from zoplat.report.study.runs import runs_in
from zoplat.report.study.scores import score_table
from zoplat.report.study.sections import study_sections
from zoplat.report.study.stored import as_lines, compressed, opened
from zoplat.training.directory import RunDirectory
from zoplat.training.predicted import read_predictions

POINTS = 1000  # losses drawn as dots; longer runs are thinned


def write(paths: Sequence[Path], to: Path, formats: Sequence[str] = ("html", "md"), **choices: Any) -> list[Path]:
    """Write the report of a run, or of several as a comparison.

    Args:
        paths: run directories, folders of comparisons, and files of studies. One run directory by itself gets the
            report of a run.
        to: a folder, for files named report; or one file, whose ending is one of `FORMATS`.
        formats: some of `FORMATS`; figures are written beside report.md.
        choices: of a comparison, see `study.sections.study_sections`.

    Returns:
        The files.

    Raises:
        ZoplatError: a run is not finished, files are damaged, a package is missing, or `to` can't be written.
    """
    name, folder = "report", to
    ending = max((kind for kind in FORMATS if to.name.endswith(f".{kind}")), key=len, default="")
    if ending and not to.is_dir():
        formats, name, folder = (ending,), to.name.removesuffix(f".{ending}"), to.parent
    check_writable(folder, "--to")
    try:
        made = _files(paths, formats, choices)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as problem:
        raise ZoplatError(
            f"{', '.join(map(str, paths))}: its files don't have what a report needs ({type(problem).__name__}: "
            f"{problem}). They were changed or are damaged; `zoplat replay` checks the journal."
        ) from problem
    folder.mkdir(parents=True, exist_ok=True)
    written = {folder / (f"{name}.{kind}" if kind in FORMATS else kind): content for kind, content in made.items()}
    for path, content in written.items():
        replace_bytes(path, content.encode() if isinstance(content, str) else content)
    return [*written]


def _files(paths: Sequence[Path], formats: Sequence[str], choices: dict[str, Any]) -> dict[str, str | bytes]:
    """The content of each format, and of the figures of a Markdown page by the names of their files."""
    files: dict[str, str | bytes] = {}
    if {"html", "md"} & {*formats}:
        title, sections = _document(paths, choices)
        if "html" in formats:
            files["html"] = page(title, sections)
        if "md" in formats:
            files["md"] = markdown(title, sections)
            files |= {picture.file: picture.draw(WIDE) for section in sections for picture in section.pictures}
    if {*formats} - {"html", "md"}:
        study = opened(paths)
        makers: dict[str, Callable[[], str | bytes]] = {
            "csv": lambda: as_csv(run_rows(study)),
            "parquet": lambda: as_parquet(run_rows(study)),
            "tex": lambda: as_latex([(f"{t}: {study.title}", score_table(study.on(t))) for t in study.tasks]),
            "jsonl": lambda: as_lines(study, paths),
            "jsonl.gz": lambda: compressed(as_lines(study, paths)),
            "toml": lambda: as_settings(study),
        }
        files |= {kind: make() for kind, make in makers.items() if kind in formats}
    return files


def _document(paths: Sequence[Path], choices: dict[str, Any]) -> tuple[str, list[Section]]:
    """The title and the sections of a page."""
    if len(paths) == 1 and not paths[0].is_file() and runs_in(paths[0]) == [paths[0]]:
        account = Account.read(RunDirectory.existing(paths[0]))
        return account.title, _sections(account)
    study = opened(paths)
    return study.title, study_sections(study, **choices)


def _sections(account: Account) -> list[Section]:
    return [
        Section("Score", [scores(account), _certainty(account)]),
        Section("Learning", [learning(account)]),
        Section(
            "Memory",
            [make(account, place) for place in account.places for make in (memory_picture, training_beyond_inference)],
        ),
        Section("Cost", [_cost(account), _overhead(account), _by_phase(account)]),
        Section(
            "Predictions",
            predictions_of([(account.summary.estimator, read_predictions(account.directory.predictions))]),
        ),
        Section("Doing it again", _reproduction(account)),
        Section("Settings", [Listing(account.settings.strip(), "toml")]),
        Section("Environment", [_environment(account)]),
    ]


def scores(account: Account) -> Scores:
    """The scores of a run before and after training."""
    s, rows = account.summary, {record["split"]: record["rows"] for record in account.metrics}
    return Scores(s.metric, [(split, *s.scores[split], rows.get(split, 0)) for split in ("test", "dev")])


def _certainty(account: Account) -> str:
    text = "The settings were chosen without the test split; it was scored before and after, never in between."
    _, _, after, rows = scores(account).splits[0]
    if account.summary.metric == "accuracy" and rows:
        error = math.sqrt(after * (1 - after) / rows)
        text = (
            f"On {rows} test rows, the last score has a standard error of {100 * error:.1f} points. This is one seed."
        )
    if any(record["kept"] for record in account.metrics):
        text += " The first scores were kept from an earlier run that began from the same weights and data."
    return text


def _cost(account: Account) -> Rows:
    s = account.summary
    rows = [
        ("steps", f"{s.steps:,}"),
        ("steps skipped, the loss not being finite", f"{s.skipped_steps:,}"),
        ("forward passes of training", f"{s.forward_passes:,}"),
        ("forward passes of evaluation", f"{s.evaluation_passes:,}"),
        ("seconds in all", f"{s.seconds:,.1f}"),
        ("seconds of training", f"{s.seconds_training:,.1f}"),
        ("overhead ratio", f"{s.overhead_ratio:.2f}" if s.overhead_ratio else "–"),
        ("passes over the trainable weights", f"{s.passes_over_weights:,}"),
        ("drift of the weights, ‖W − θ‖ / ‖θ‖", f"{s.drift:.1e}"),
        ("trainable weights", f"{s.trainable_parameters:,}"),
        ("all weights of the model", readable(s.model_bytes) if s.model_bytes else "–"),
        ("the loss, last fifth against first", s.loss_trend),
        *([("ended before its budget was used up", s.stopped)] if s.stopped else []),
    ]
    if s.general_kl is not None:
        rows += [
            ("loss of general text before training, nats a token", f"{s.general_loss_before:.4f}"),
            ("loss of general text after it", f"{s.general_loss_after:.4f}"),
            ("KL(before ‖ after) of its next tokens, nats", f"{s.general_kl:.2g}"),
        ]
    return Rows(("", ""), rows)


def _overhead(account: Account) -> str:
    return (
        "The overhead ratio is the time of sampled steps over (their forward passes × the time of a bare forward pass "
        "on the same batch): what perturbing and updating cost on top, 1 being nothing. Drift is how far rounding has "
        "carried the stored weights from the exact sum of their updates, on a sample of rows."
    )


def _by_phase(account: Account) -> Rows:
    total = sum(row["seconds"] for row in account.phases) or 1.0
    places = account.places
    body = []
    for row in account.phases:
        peaks = [row[f"{place}_peak"] for place in places]
        body.append(
            [
                row["phase"],
                MEANING.get(row["phase"], ""),
                f"{row['calls']:,}" if row["calls"] else "",
                f"{row['seconds']:,.1f}",
                f"{row['seconds'] / total:.0%}",
                *(readable(peak) if peak else "–" for peak in peaks),
            ]
        )
    peak_heads = [f"peak, {place}" for place in places]
    return Rows(("phase", "what happens in it", "calls", "seconds", "share", *peak_heads), body, words=2)


def _reproduction(account: Account) -> list[Part]:
    run = str(account.directory.path)
    config, fresh = shlex.quote(f"{run}/config.toml"), shlex.quote(f"{run}-again")
    plugins = shown(of_terms(terms_of(account.directory)))
    return [
        Listing(f"zoplat run --config {config} --out {fresh}{plugins}", "sh"),
        "repeats the run, and on the same versions, device and number of threads ends with these trainable weights:",
        Listing(account.summary.weights_digest, "text"),
        "The journal rebuilds them without a forward pass:",
        Listing(f"zoplat replay {shlex.quote(run)} --to {shlex.quote(run + '-weights')}{plugins}", "sh"),
    ]


def _environment(account: Account) -> Rows:
    facts: list[tuple[str, str]] = []
    for name, value in account.environment.items():
        if isinstance(value, dict):
            facts.append((name, ", ".join(f"{key} {part}" for key, part in value.items())))
        elif value is not None:
            facts.append((name, str(value)))
    return Rows(("", ""), facts, words=2)


def learning(account: Account) -> Picture:
    """The figure of losses and dev scores over the steps of a run."""
    losses, metric = account.losses, account.summary.metric
    width = max(5, len(losses) // 12)
    stride = -(-len(losses) // POINTS) or 1
    dev = [(record["step"], record["score"]) for record in account.metrics if record["split"] == "dev"]
    thinned = f", one in {stride} of them drawn" if stride > 1 else ""
    return Picture(
        "learning",
        partial(draw_learning, losses, stride, width, dev, metric),
        f"Above: the mean of the losses that each step saw, on its own batch of training rows{thinned}; the line is "
        f"a running mean over {width} steps. Below: {metric} on the dev split.",
        f"Two curves over {account.summary.steps:,} steps: the training loss, and {metric} on the dev split, from "
        f"{dev[0][1]:.1%} to {dev[-1][1]:.1%}.",
    )
