"""A damaged run directory brought back to what is whole in it."""

from __future__ import annotations

import os

from zoplat.core.errors import ZoplatError
from zoplat.core.notices import counted
from zoplat.training.checkpoint import DamagedCheckpoint
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal
from zoplat.training.lock import locked

REMAINDER = "journal.damaged"
"""Gets what was cut off a journal."""


def repair(directory: RunDirectory) -> list[str]:
    """Cut a journal back to its last whole line, and drop the files beside it that are damaged or ahead of it.

    Args:
        directory: of a run that no process writes.

    Returns:
        What was lost, one sentence each; empty where nothing was damaged.

    Raises:
        ZoplatError: the run is in use, or nothing of its journal can be kept.
    """
    with locked(directory.path):
        journal, damage = Journal.read_whole_lines(directory.journal)
        steps, lost = len(journal.steps), []
        if cut := _cut(directory, journal):
            what = damage or f"{directory.journal} ends within a line."
            lost.append(
                f"{what} {counted(cut, 'byte')} from there on went to {REMAINDER}; the journal keeps "
                f"{counted(steps, 'whole step')}."
            )
        if damaged := directory.trim_metrics(steps):
            lost.append(f"{directory.metrics} had damaged lines: {counted(damaged, 'score')} lost.")
        lost += _damaged_checkpoint(directory, steps)
        lost += _stale_summary(directory, steps, bool(lost))
    return lost


def _cut(directory: RunDirectory, journal: Journal) -> int:
    """Move what follows the whole lines of a journal into another file; returns the number of bytes."""
    content = directory.journal.read_bytes()
    rest = content[journal.bytes :]
    if rest:
        with (directory.path / REMAINDER).open("ab") as file:
            file.write(rest)
        os.truncate(directory.journal, journal.bytes)
    return len(rest)


def _damaged_checkpoint(directory: RunDirectory, steps: int) -> list[str]:
    """Drop the newest checkpoint where it is damaged or ahead of the journal; returns what is to be said."""
    try:
        directory.checkpoints.check()
    except DamagedCheckpoint as problem:
        directory.checkpoints.drop()
        return [f"{problem.what} It is dropped; --resume rebuilds the weights from the journal."]
    step = directory.checkpoints.step()
    if step is None or step <= steps:
        return []
    directory.checkpoints.drop()
    return [f"The checkpoint was of step {step}, which the journal does not reach. It is dropped."]


def _stale_summary(directory: RunDirectory, steps: int, anything_lost: bool) -> list[str]:
    """Delete a summary that is damaged, or of a run whose end is lost; returns what is to be said."""
    try:
        summary = directory.read_summary()
        is_stale = summary is not None and (anything_lost or summary.steps != steps)
        what = "is of the run as it was"
    except ZoplatError:
        is_stale, what = True, "is damaged"
    if not is_stale:
        return []
    directory.summary.unlink(missing_ok=True)
    return [f"{directory.summary} {what}. It is deleted; --resume writes it anew."]
