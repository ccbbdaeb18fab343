"""Reports in brief, for notebooks: what a run or a comparison came to, without what a page has for doing it again."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from zoplat.core.errors import ZoplatError
from zoplat.report.account import Account
from zoplat.report.memory import memory_picture
from zoplat.report.pages import Part, Picture, Rows, piece
from zoplat.report.report import learning, scores
from zoplat.report.study.figures import looks
from zoplat.report.study.learning import learning_parts
from zoplat.report.study.scores import score_parts
from zoplat.report.study.stored import opened
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary


def run_in_brief(path: Path, summary: Summary) -> str:
    """A run as HTML: scores, learning, memory, and where it lies.

    Args:
        path: the run directory; where its files are gone or damaged, there are no figures.
        summary: of the run.
    """
    facts = Rows(("", ""), [*_facts(summary), ("run directory", str(path))])
    try:
        account = Account.read(RunDirectory(path))
        pictures = [learning(account), *(memory_picture(account, place) for place in account.places)]
        return piece(account.title, _drawable([scores(account), *pictures, facts]))
    except (ZoplatError, OSError, LookupError, TypeError, ValueError) as problem:
        title = f"{summary.estimator} on {summary.task} · {summary.model} · seed {summary.seed}"
        both = ((split, *pair) for split, pair in summary.scores.items())
        body = [(split, f"{before:.1%}", f"{after:.1%}") for split, before, after in both]
        return piece(title, [Rows((summary.metric, "before", "after"), body), facts, f"No figures: {problem}"])


def comparison_in_brief(paths: list[Path], where: Path | None) -> str:
    """A comparison as HTML: a table for each task, and curves.

    Args:
        paths: its folder, or run directories.
        where: its folder, if it has one.

    Raises:
        ZoplatError: none of its runs is finished.
    """
    study = opened(paths)
    parts = [*score_parts(study), *learning_parts(study, looks(study.labels))]
    facts = [Rows(("", ""), [("folder", str(where))])] if where else []
    return piece(study.title, [*_drawable(parts), *facts])


def _facts(one: Summary) -> list[tuple[str, str]]:
    """What was run, and what it took."""
    return [
        ("method", f"{one.estimator}, {one.tune}, seed {one.seed}"),
        ("model", f"{one.model} in {one.dtype} on {one.device}"),
        ("took", f"{one.steps:,} steps, {one.forward_passes:,} forward passes, {one.seconds:,.0f} s"),
        ("losses", one.loss_trend),
        *([("ended early", one.stopped)] if one.stopped else []),
        *([("outlook", f"{one.outlook}. {one.advice}")] if one.advice else []),
    ]


def _drawable(parts: Sequence[Part]) -> list[Part]:
    """The parts, with a sentence in place of figures where they can't be drawn."""
    if find_spec("matplotlib"):
        return [*parts]
    return [
        *(part for part in parts if not isinstance(part, Picture)),
        "Figures need matplotlib: pip install matplotlib.",
    ]
