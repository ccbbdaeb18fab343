"""Weights rebuilt from a journal, without a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from zoplat.config.local import check_sources
from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.sampler import Sampler
from zoplat.space.rounding import NARROW
from zoplat.training.binding import bindings, changed_versions, check_bindings, rows_there
from zoplat.training.checkpoint import DamagedCheckpoint
from zoplat.training.directory import RunDirectory
from zoplat.training.export import check_target, export
from zoplat.training.journal import Journal
from zoplat.training.setup import check_device, spec_of
from zoplat.training.step import Learner


def replay(
    directory: RunDirectory, to: Path | None, device: str | None = None, config: RunConfig | None = None
) -> dict[str, Any]:
    """Rebuild the final weights of a run from its journal.

    Args:
        directory: of the run.
        to: a folder that the weights are exported to; None to compute their digest only.
        device: another one than the run's, in the same precision.
        config: used in place of config.toml; of a run inside a bundle.

    Returns:
        status ("done", or "different" when the run ended with other bits), steps, weights_digest, recorded_digest, to,
        versions (a line for each package that has another version than then).

    Raises:
        ZoplatError: the journal is damaged, was made with other noise, or starts from other weights.
    """
    journal = Journal.read(directory.journal)
    is_same_device = not (device or config)
    changes = {"device": {"name": device}, "dtype": journal.header["dtype"]} if device else {}
    config = config or directory.read_config(**changes)
    if not is_same_device:
        check_device(config)
    if not is_replayable(config):
        raise ZoplatError(
            f"'{config.estimator_name}' steps along gradients, which a journal of numbers does not hold: the run in "
            f"{directory.path} can't be replayed. Its weights are in {directory.checkpoints.folder}."
        )
    summary = directory.read_summary()
    if summary and (lost := directory.lost_steps(summary)):
        raise ZoplatError(lost)
    if to:
        check_target(to, config.model)
    session = config.device.open(spec_of(config))
    if not is_same_device:
        session.strategy = journal.header["strategy"]
    now = bindings(config, session, rows_there(config) if is_same_device else None)
    check_start(journal, session, directory, now, law_of(config.estimator), not is_same_device)
    learner = Learner(config, session, strategy=journal.header["strategy"])
    for record in journal.steps:
        learner.replay(record)
    session.space.settle()
    digest, recorded = session.digest(), summary.weights_digest if summary else None
    if to:
        export(session, to)
    return {
        "status": "done" if recorded in (None, digest) else "different",
        "steps": learner.progress.step,
        "weights_digest": digest,
        "recorded_digest": recorded,
        "to": str(to) if to else None,
        "versions": changed_versions(journal.header, session, now["plugins"]),
    }


def catch_up(
    learner: Learner, journal: Journal, directory: RunDirectory, warn: Callable[[str], None] = lambda _: None
) -> Journal:
    """Bring a fresh learner to the end of a journal, by the newest checkpoint and by replaying what follows it.

    Args:
        learner: at step 0.
        journal: of the run.
        directory: has the checkpoint; a damaged one is dropped, since the journal has everything.
        warn: is called with what was damaged.

    Returns:
        The journal up to where the learner is: all of it, or up to the checkpoint where steps can't be replayed.

    Raises:
        ZoplatError: the checkpoint is damaged, and there is no way around it.
    """
    try:
        saved = directory.checkpoints.load(cast(Session, learner.session), learner.states, len(journal.steps))
    except DamagedCheckpoint as problem:
        if not is_replayable(learner.config):
            raise ZoplatError(
                f"{problem.what} '{learner.config.estimator_name}' steps along gradients, which a journal of numbers "
                "does not hold, so the weights can't be rebuilt. Begin the run afresh with another --out."
            ) from None
        directory.checkpoints.drop()
        if problem.touched:
            raise RunFailed(
                f"{problem.what} It is dropped now: the same command again rebuilds the run from its journal."
            ) from None
        warn(f"{problem.what} It is dropped, and its steps are rebuilt from the journal.")
        saved = None
    learner.progress = saved or learner.progress
    if not is_replayable(learner.config):
        journal = journal.until(learner.progress.step)
        directory.trim_metrics(len(journal.steps))
    for record in journal.steps[learner.progress.step :]:
        learner.replay(record)
    return journal


def is_replayable(config: RunConfig) -> bool:
    """Whether the answers in a journal are enough to rebuild the weights of a run."""
    return "gradient" not in config.estimator.asks


def check_start(
    journal: Journal,
    session: Session,
    directory: RunDirectory,
    now: dict[str, Any],
    law: Sampler | None,
    is_other_device: bool = False,
) -> None:
    """Raise ZoplatError where a journal was made with other noise or other updates, or from another start.

    Args:
        journal: of the run.
        session: its model, as it was opened.
        directory: of the run.
        now: what a journal of today would be bound to; see `binding`.
        law: of the run's directions; None where none are drawn.
        is_other_device: whether the run was made on another device.
    """
    header, noise, digest = journal.header, session.space.noise.name, session.digest()
    missing = [name for name in ("noise", "start_digest", "strategy", "versions", "dtype") if name not in header]
    if missing:
        raise ZoplatError(f"{directory.journal} is no journal of a run: its header has no {', '.join(missing)}.")
    if header["noise"] != noise:
        raise ZoplatError(
            f"{directory.journal} was made with noise '{header['noise']}'; this version makes '{noise}'. Use the "
            "version of zoplat that is in the run's environment.json."
        )
    is_narrow = any(block.dtype in NARROW for block in session.space.blocks)
    if header["strategy"] == "batched" and law and not is_narrow and session.space.is_low_rank(law):
        raise ZoplatError(
            f"{directory.journal} was made by a version that wrote low-rank updates of batched points four at a time. "
            "This version adds them up until their factors are renewed, which rounds differently, so it can't rebuild "
            f"the weights bit by bit. They are in {directory.checkpoints.folder}; the version that made the run is in "
            "its environment.json, and replays it."
        )
    check_sources(header.get("plugins") or {}, str(directory.path))
    if header["start_digest"] != digest:
        raise ZoplatError(
            f"{directory.path} began from other weights than the model has now: {header['start_digest']} then, "
            f"{digest} now. Give the model that it began with. Versions then: {header['versions']}."
        )
    check_bindings(header, now, str(directory.path), is_other_device)
