"""A bundle: all that a run needs on a board, in a folder that is checked before anything in it is used.

    bundle.json   format, versions, facts, and size and checksum of every other file
    run.toml      the settings of the run
    data/         its rows of train, dev and test
    task/         the file of its task, if that has one
    …             what the device wrote to open the model again

Checksums find damage, and changes by those who know no better; they are no signature.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from zoplat import __version__
from zoplat.config.layers import build, changed_settings, read_toml
from zoplat.config.parts import Table
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Noise
from zoplat.paths import check_writable
from zoplat.tasks import custom, files

FORMAT = 1
MANIFEST, SETTINGS, DATA, TASK = "bundle.json", "run.toml", "data", "task"
FIXED = ("model:", "tune.", "base:", "head:", "seed:")
"""Settings that the graph and the weights of a bundle were made with."""


@dataclass(frozen=True)
class BundleConfig(RunConfig):
    """Settings whose task and rows are read from a bundle, and written down as they were where it was packed.

    Attributes:
        written: what `table` says in the place of paths into the bundle; None for a setting that was not given.
    """

    written: Mapping[str, str | None] = field(default_factory=dict)

    def table(self) -> Table:
        table = {**super().table(), **self.written}
        return {name: value for name, value in table.items() if name != "written" and value is not None}


@dataclass(frozen=True)
class Bundle:
    """A folder in which every byte is what was packed.

    Attributes:
        folder: where it is.
        told: the content of bundle.json.
    """

    folder: Path
    told: dict[str, Any]

    @classmethod
    def opened(cls, folder: Path) -> Bundle:
        """A bundle, once all of it was checked.

        Raises:
            ZoplatError: it is of another version, or a file is changed, missing, added or not where it should be.
        """
        told = _manifest(folder)
        listed = told["files"]
        for name in listed:
            _check_name(folder, name)
        there = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
        if missing := sorted(listed.keys() - there):
            raise _damaged(folder, f"{missing[0]} is missing")
        if added := sorted(there - listed.keys()):
            raise _damaged(folder, f"{added[0]} was added")
        for name, known in listed.items():
            if _sum(folder / name) != known:
                raise _damaged(folder, f"{name} is not what was packed")
        return cls(folder, told)

    @property
    def bytes(self) -> int:
        """Of all files but bundle.json."""
        return sum(known["bytes"] for known in self.told["files"].values())

    def config(
        self, run: Table | None = None, changes: Mapping[str, Any] | None = None, data: Path | None = None
    ) -> BundleConfig:
        """The run that was packed, or another one of the same weights.

        Args:
            run: settings of the other one, as its config.toml has them.
            changes: top-level settings that are others.
            data: folder with other rows.

        Raises:
            ZoplatError: the other one trained another model or other weights of it.
        """
        packed = read_toml(self.folder / SETTINGS)
        table = {**(run or packed), **(changes or {}), "device": packed["device"], "dtype": packed["dtype"]}
        if data:
            table["data"] = str(data)
        if others := [line for line in changed_settings(packed, table) if line.startswith(FIXED)]:
            raise ZoplatError(
                f"{self.folder} holds another model, or other weights of it, than the run was begun with:\n  "
                + "\n  ".join(others)
                + "\nPack that run, with the same settings."
            )
        here = self._paths(packed, table)
        config = build([{**table, **here}])
        plain = {one.name: getattr(config, one.name) for one in fields(config)}
        return BundleConfig(**plain, written={name: table.get(name) for name in here})

    def _paths(self, packed: Table, table: Table) -> Table:
        """Where what a run names is in this bundle."""
        here: Table = {}
        if table.get("task") == packed["task"]:
            if custom.is_file(packed["task"]):
                here["task"] = str(self.folder / TASK / Path(packed["task"]).name)
            if table.get("data") == packed.get("data"):
                here["data"] = str(self.folder / DATA)
        return here


def check_free(to: Path) -> None:
    """Raise ZoplatError unless a bundle can be written to a folder."""
    check_writable(to, "--to")
    if to.exists() and any(to.iterdir()):
        raise ZoplatError(f"--to {to} holds something already. Choose another place.")


def write(config: RunConfig, splits: Mapping[str, files.Rows], session: Session, to: Path) -> Bundle:
    """Pack a run, whole or not at all.

    Args:
        config: of the run.
        splits: rows of its task.
        session: its model, opened.
        to: the folder.
    """
    to = to.absolute()
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".zoplat-") as beside:
        folder = Path(beside, to.name)
        (folder / DATA).mkdir(parents=True)
        (folder / SETTINGS).write_text(config.toml(), encoding="utf-8")
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for _, row in rows]
            (folder / DATA / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        if custom.is_file(config.task):
            (folder / TASK).mkdir()
            shutil.copyfile(config.task, folder / TASK / Path(config.task).name)
        session.write_bundle(folder)
        told = _told(config, splits, session, folder)
        (folder / MANIFEST).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.replace(to)
    return Bundle(to, told)


def _told(config: RunConfig, splits: Mapping[str, files.Rows], session: Session, folder: Path) -> dict[str, Any]:
    names = ("model", "base", "trainable_parameters", "model_bytes", "versions")
    facts: dict[str, Any] = {"estimator": config.estimator_name, "tune": config.tune.name, "task": config.task}
    facts |= {name: session.facts.get(name) for name in names} | {"start_digest": session.digest()}
    facts["rows"] = {split: len(rows) for split, rows in splits.items()}
    sums = {path.relative_to(folder).as_posix(): _sum(path) for path in sorted(_files(folder))}
    told = {"zoplat_bundle": FORMAT, "zoplat": __version__, "noise": session.space.noise.name}
    told |= {"facts": facts, "files": sums}
    return {**told, "checksum": _checksum(told)}


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise ZoplatError(f"{folder} is not a bundle: it has no {MANIFEST}. `zoplat pack --to DIR` makes one.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        format_, noise = told["zoplat_bundle"], told["noise"]
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(folder, f"{MANIFEST} can't be read") from None
    if format_ != FORMAT:
        raise ZoplatError(f"{folder} is a bundle of format {format_}; zoplat {__version__} reads {FORMAT}. Pack again.")
    if noise != Noise.name:
        raise ZoplatError(
            f"{folder} was packed for noise '{noise}'; zoplat {__version__} makes '{Noise.name}'. Pack again."
        )
    if told.pop("checksum", None) != _checksum(told):
        raise _damaged(folder, f"{MANIFEST} is not what was packed")
    return dict(told)


def _check_name(folder: Path, name: str) -> None:
    """Raise ZoplatError for a path that is not eager inside."""
    path, other = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or other.drive or other.root or "\\" in name or ".." in path.parts or str(path) != name:
        raise _damaged(folder, f"{MANIFEST} names '{name}', which points outside")


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder; raises ZoplatError for a link or anything else that is no plain file."""
    for place, inner, names in os.walk(folder):
        for path in (Path(place, name) for name in [*inner, *names]):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise _damaged(folder, f"{path.relative_to(folder)} is a link or no plain file")
        yield from (Path(place, name) for name in names)


def _sum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}


def _checksum(told: Mapping[str, Any]) -> str:
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Path, what: str) -> ZoplatError:
    return ZoplatError(f"The bundle in {folder} was changed or damaged: {what}. Copy it again, or pack it again.")
