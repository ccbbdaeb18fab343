"""Help a run from another process that sees its directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from zoplat.config.parts import law_of
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.training.binding import check_batches
from zoplat.training.directory import RunDirectory
from zoplat.training.members import Member, Restarted
from zoplat.training.opening import OpenedRun, open_run
from zoplat.training.ranks import follow
from zoplat.training.replay import check_start
from zoplat.training.setup import check_commands, check_device
from zoplat.training.step import Learner


def join(run: Path, seconds: float) -> dict[str, Any]:
    """Compute points of a run until it ends.

    Args:
        run: its directory, on a file system that both see.
        seconds: after which a run that does not go on is given up.

    Returns:
        status, steps that this process has followed or rebuilt, points that it computed, weights_digest.

    Raises:
        ZoplatError: there is no such run, it shares no points, or model or rows are others here.
    """
    directory = RunDirectory.existing(run)
    config = directory.read_config()
    if config.parallel != "queries":
        raise ZoplatError(f"{run} was begun without --parallel queries, so its points can't be shared.")
    check_device(config)
    check_commands(config)
    computed = 0
    while True:
        opened = open_run(config)
        member, learner = _caught_up(directory, opened, seconds)
        try:
            follow(learner, opened, member)
        except Restarted:
            computed += member.computed
            continue
        digest, steps = opened.session.digest(), learner.progress.step
        return {"status": "done", "steps": steps, "points": computed + member.computed, "weights_digest": digest}


def _caught_up(directory: RunDirectory, opened: OpenedRun, seconds: float) -> tuple[Member, Learner]:
    """A member, and a learner at the end of what the journal has."""
    deadline = time.monotonic() + seconds
    while (journal := directory.read_journal()) is None:
        if time.monotonic() > deadline:
            raise RunFailed(f"{directory.path} has had no journal for {seconds:g} s. Start the run first.")
        time.sleep(0.1)
    config, session = opened.config, opened.session
    check_start(journal, session, directory, opened.bound, law_of(config.estimator))
    check_batches(journal.header, str(directory.path))
    learner = Learner(
        config,
        session,
        opened.objective,
        strategy=str(journal.header["strategy"]),
        tokens_of=opened.batches.tokens,
    )
    for record in journal.steps:
        learner.replay(record)
    member = Member(directory.path, journal.bytes, seconds)
    learner.exchange = member
    return member, learner
