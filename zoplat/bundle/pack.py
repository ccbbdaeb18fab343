"""Pack a run as a bundle."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoplat.bundle.bundle import DATA, SETTINGS, TASK, Bundle
from zoplat.bundle.manifest import write_manifest
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.paths import check_writable
from zoplat.registry import catalogue
from zoplat.tasks import custom, files
from zoplat.training.setup import check, rows_of, spec_of


def pack(config: RunConfig, to: Path) -> Bundle:
    """Write a run as a bundle, which trains on a board without torch and without the original model.

    Raises:
        ZoplatError: the run can't be made, its device writes no bundles, or the folder can't be used.
    """
    check(config)
    _check_free(to)
    if not config.device.makes_bundles:
        able = [entry.name for entry in catalogue() if entry.kind == "device" and entry.value.makes_bundles]
        raise ZoplatError(f"'{config.device_name}' makes no bundles. Use --device {' or '.join(able)}.")
    splits = rows_of(config)
    session = config.device.open(spec_of(config))
    for split, rows in splits.items():
        PromptEncoder(config, session).rows(rows, split)  # every row is encoded once here: errors show before the board
    return write_bundle(config, splits, session, to)


def write_bundle(config: RunConfig, splits: Mapping[str, files.Rows], session: Session, to: Path) -> Bundle:
    """Write a bundle to a folder, whole or not at all.

    Args:
        config: of the run.
        splits: raw rows of its task.
        session: its model, opened.
        to: the folder; it does not exist, or is empty.
    """
    to = to.absolute()
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".zoplat-") as temporary:
        folder = Path(temporary, to.name)
        (folder / DATA).mkdir(parents=True)
        (folder / SETTINGS).write_text(config.toml(), encoding="utf-8")
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for _, row in rows]
            (folder / DATA / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        if custom.is_file(config.task):
            (folder / TASK).mkdir()
            shutil.copyfile(config.task, folder / TASK / Path(config.task).name)
        session.write_bundle(folder)
        manifest = write_manifest(folder, session.space.noise.name, _facts(config, splits, session))
        folder.replace(to)
    return Bundle(to, manifest)


def _facts(config: RunConfig, splits: Mapping[str, files.Rows], session: Session) -> dict[str, Any]:
    """What the manifest says about the run and its model."""
    names = ("model", "base", "trainable_parameters", "model_bytes", "versions")
    facts: dict[str, Any] = {"estimator": config.estimator_name, "tune": config.tune.name, "task": config.task}
    facts |= {name: session.facts.get(name) for name in names} | {"start_digest": session.digest()}
    return {**facts, "rows": {split: len(rows) for split, rows in splits.items()}}


def _check_free(to: Path) -> None:
    """Raise ZoplatError unless a bundle can be written to a folder."""
    check_writable(to, "--to")
    if to.exists() and any(to.iterdir()):
        raise ZoplatError(f"--to {to} holds something already. Choose another place.")
