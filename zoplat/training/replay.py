"""Weights rebuilt from a journal, without a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.paths import check_writable
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal
from zoplat.training.setup import check_device, check_start, spec_of
from zoplat.training.step import Learner


def replay(
    directory: RunDirectory, to: Path | None, device: str | None = None, config: RunConfig | None = None
) -> dict[str, Any]:
    """Rebuild the final weights from a journal, without a forward pass; write them to `to`.

    Args:
        directory: of the run.
        to: a folder for the weights.
        device: another one than the run's, in the same precision.
        config: the run's settings as a bundle has them, in the place of its own.

    Raises:
        ZoplatError: the journal is damaged, was made with other noise, or starts from other weights.
    """
    from zoplat.config.layers import build, read_toml

    table = read_toml(directory.config)
    journal = Journal.read(directory.journal)
    if device:
        table |= {"device": {"name": device}, "dtype": journal.header["dtype"]}
    is_elsewhere = bool(device or config)
    config = config or build([table])
    if is_elsewhere:
        check_device(config)
    if not replays(config):
        raise ZoplatError(
            f"'{config.estimator_name}' steps along gradients, which a journal of numbers does not hold: the run in "
            f"{directory.path} can't be replayed. Its weights are in {directory.checkpoint}."
        )
    summary = directory.read_summary()
    if len(journal.steps) < summary.get("steps", 0):
        raise ZoplatError(
            f"{directory.journal} ends after {len(journal.steps)} steps; the run made {summary['steps']}. "
            "The rest of the journal is missing or damaged."
        )
    if to:
        check_writable(to, "--to")
    session = config.device.open(spec_of(config))
    if is_elsewhere:
        session.strategy = journal.header["strategy"]
    check_start(journal, session, directory)
    learner = Learner(config, session, strategy=journal.header["strategy"])
    for record in journal.steps:
        learner.replay(record)
    session.space.settle()
    digest, expected = session.digest(), summary.get("weights_digest")
    if to:
        session.export(to)
    return {
        "status": "done" if expected in (None, digest) else "different",
        "steps": learner.progress.step,
        "weights_digest": digest,
        "recorded_digest": expected,
        "to": str(to) if to else None,
    }


def replays(config: RunConfig) -> bool:
    """Whether the journal of a run is enough to rebuild its weights."""
    return "gradient" not in config.estimator.asks
