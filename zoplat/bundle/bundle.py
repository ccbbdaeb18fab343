"""A bundle: all that a run needs on a board, in one folder.

bundle.json   the manifest: format, versions, facts, and size and checksum of every other file
run.toml      settings of the run
data/         rows of train, dev and test
task/         the task's file, if it has one
…             what the device wrote to open the model again
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from zoplat.bundle.manifest import read_manifest
from zoplat.config.layers import build, changed_settings
from zoplat.config.parts import Table
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.tasks import custom
from zoplat.training.directory import recorded_settings

SETTINGS, DATA, TASK = "run.toml", "data", "task"
FIXED = ("model:", "tune.", "base:", "head:", "seed:")
"""Settings that determine the graph and the weights of a bundle."""


@dataclass(frozen=True)
class BundleConfig(RunConfig):
    """Settings whose task and rows are read from a bundle, and recorded under their original paths.

    Attributes:
        written: what `table` says in place of paths into the bundle; None for a setting that was not given.
    """

    written: Mapping[str, str | None] = field(default_factory=dict)

    def table(self) -> Table:
        table = {**super().table(), **self.written}
        return {name: value for name, value in table.items() if name != "written" and value is not None}


@dataclass(frozen=True)
class Bundle:
    """A folder in which every byte is what was packed.

    Attributes:
        folder: its path.
        manifest: content of bundle.json.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def opened(cls, folder: Path) -> Bundle:
        """A bundle, after all of it was verified.

        Raises:
            ZoplatError: it is of another version, or a file is changed, missing, added, or outside of the folder.
        """
        return cls(folder, read_manifest(folder))

    @property
    def bytes(self) -> int:
        """Size of all files but bundle.json."""
        return sum(file["bytes"] for file in self.manifest["files"].values())

    def config(
        self, run: Table | None = None, changes: Mapping[str, Any] | None = None, data: Path | None = None
    ) -> BundleConfig:
        """The run that was packed, or another one that starts from the same weights.

        Args:
            run: settings of the other run, as in its config.toml.
            changes: top-level settings to replace.
            data: folder with other rows.

        Raises:
            ZoplatError: the other run trains another model, or starts from other weights.
        """
        packed = recorded_settings(self.folder / SETTINGS)
        table = {**(run or packed), **(changes or {}), "device": packed["device"], "dtype": packed["dtype"]}
        if data:
            table["data"] = str(data)
        if others := [line for line in changed_settings(packed, table) if line.startswith(FIXED)]:
            raise ZoplatError(
                f"{self.folder} holds another model, or other weights of it, than the run was begun with:\n  "
                + "\n  ".join(others)
                + "\nPack that run, with the same settings."
            )
        inside = self._paths_inside(packed, table)
        config = build([{**table, **inside}])
        plain = {one.name: getattr(config, one.name) for one in fields(config)}
        return BundleConfig(**plain, written={name: table.get(name) for name in inside})

    def _paths_inside(self, packed: Table, table: Table) -> Table:
        """Settings of a run that are paths, as paths into this bundle."""
        inside: Table = {}
        if table.get("task") == packed["task"]:
            if custom.is_file(packed["task"]):
                inside["task"] = str(self.folder / TASK / Path(packed["task"]).name)
            if table.get("data") == packed.get("data"):
                inside["data"] = str(self.folder / DATA)
        return inside
