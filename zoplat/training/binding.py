"""What a run began with, written into its journal's header, and compared with what it is gone on with.

The answers in a journal belong to these settings, these rows and this model. Headers of earlier versions lack some of
the keys; what is not on record is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat.config.layers import build, changed_settings, without_free
from zoplat.config.parts import Table, part_kind, setting_fields
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.registry import Entry, catalogue
from zoplat.tasks import custom, data
from zoplat.training.batches import VERSION
from zoplat.training.setup import rows_of

PLACES = ("model", "task", "data", "limit", "per_class")
"""Settings that say where model and rows are; what is there is compared instead."""
BUDGET = ("steps", "max_passes", "max_seconds", "max_tokens", "max_joules")
"""Settings that say how long a run is; they change its steps only where a part must know that."""
OF_THE_DEVICE = ("device", "dtype")
"""Settings that another device may have otherwise."""
OWN = "zoplat"
"""The distribution of what ships."""


def bindings(config: RunConfig, session: Session, rows: dict[str, data.Rows] | None) -> dict[str, Any]:
    """What a run is bound to, as the header of its journal has it.

    Args:
        config: the settings.
        session: the open model.
        rows: raw, by split; None where they are not there and are not needed.
    """
    return {
        "settings": config.table(),
        "metric": data.find(config.task).metric,
        "rows": None if rows is None else rows_digests(config, session, rows),
        "model_digest": session.facts.get("model_digest"),
        "plugins": plugin_versions(config),
    }


def rows_digests(config: RunConfig, session: Session, rows: dict[str, data.Rows]) -> dict[str, str]:
    """By split, how many rows there are and a digest of their text, their options and their labels."""
    encoder, found = PromptEncoder(config, session), {}
    for split, some in rows.items():
        digest = sha256()
        for where, row in some:
            digest.update(json.dumps(vars(encoder.example(row, where)), sort_keys=True).encode())
        found[split] = f"{len(some)} rows, sha256:{digest.hexdigest()[:32]}"
    return found


def rows_there(config: RunConfig) -> dict[str, data.Rows] | None:
    """Raw rows by split; None where they can't be read without a network, or no more."""
    task, name = data.find(config.task), config.task
    if task.hub and not (task.packaged or config.data or (custom.is_file(name) and custom.folder(Path(name)))):
        return None
    try:
        return rows_of(config)
    except ZoplatError:
        return None


def plugin_versions(config: RunConfig) -> dict[str, str]:
    """Versions of the distributions, zoplat's own aside, that the parts of a run and its task come from."""
    known = catalogue()
    named = (("estimator", config.estimator_name), ("device", config.device_name), ("task", config.task))
    entries = [entry for entry in known if (entry.kind, entry.name) in named]
    entries += _inner_entries(config.estimator)
    return {entry.distribution: entry.version for entry in entries if entry.distribution != OWN}


def check_bindings(header: dict[str, Any], now: dict[str, Any], where: str, is_other_device: bool = False) -> None:
    """Raise ZoplatError, which lists what differs, where a journal began with something else.

    Args:
        header: of the journal.
        now: `bindings` of what it is gone on with.
        where: its run directory, for the message.
        is_other_device: whether the device is meant to be another one than the run's.
    """
    lines = _changed_settings(header.get("settings"), now["settings"], is_other_device)
    for name, title in (("metric", "metric of the task"), ("model_digest", "weights or config.json of the model")):
        before, after = header.get(name), now[name]
        if None not in (before, after) and before != after:
            lines.append(f"{title}: {before} → {after}")
    before, after = header.get("rows") or {}, now["rows"] or {}
    lines += [
        f"rows of {split}: {before[split]} → {after.get(split)}"
        for split in before
        if after and before[split] != after.get(split)
    ]
    if lines:
        raise ZoplatError(
            f"{where} began with something else than there is now:\n  " + "\n  ".join(lines) + "\nIts journal belongs "
            "to what it began with. Put that back, or start a new run with another --out."
        )


def check_batches(header: dict[str, Any], where: str) -> None:
    """Raise ZoplatError where the steps that follow would have other batches than those in a journal had."""
    if (before := header.get("batches", 1)) != VERSION:
        raise ZoplatError(
            f"{where} was begun with version {before} of the batches, and this version of zoplat makes version "
            f"{VERSION}: its steps would have other rows from here on. Go on with the version that is in the run's "
            "environment.json, or begin anew. `zoplat replay` and `zoplat export` make its weights."
        )


def changed_versions(header: dict[str, Any], session: Session, plugins: dict[str, str]) -> list[str]:
    """One line for each package whose version is another one than when a journal was begun."""
    then = {**(header.get("versions") or {}), **(header.get("plugins") or {})}
    now = {**(session.facts.get("versions") or {}), **plugins}
    return [f"{name} {then[name]} then, {now[name]} now" for name in then if name in now and now[name] != then[name]]


def _changed_settings(recorded: Table | None, now: Table, is_other_device: bool) -> list[str]:
    if recorded is None:
        return []
    config = build([recorded])
    ignored = [*PLACES, *(OF_THE_DEVICE if is_other_device else ())]
    if not (config.estimator.rule.has_horizon or config.estimator.has_horizon):
        ignored += BUDGET
    before, after = ({k: v for k, v in table.items() if k not in ignored} for table in (config.table(), now))
    return without_free(changed_settings(before, after))


def _inner_entries(part: Any) -> Iterator[Entry]:
    """The catalogue's entries of the parts inside a part."""
    for field in setting_fields(part):
        value = getattr(part, field.name)
        if kind := part_kind(value):
            yield catalogue().entry(kind, catalogue().name_of(kind, value))
            yield from _inner_entries(value)
