"""Presets: settings under which a publication or its code ran a method, by name."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError


@dataclass(frozen=True, eq=False)
class Preset:
    """A layer of settings between a method's own and the user's.

    Attributes:
        summary: what ran under them.
        source: where they are written down.
        settings: as in a settings file.
        grid: dotted path in the estimator → values that were searched.
    """

    summary: str
    source: str
    settings: dict[str, Any]
    grid: dict[str, list[Any]]


def read_presets(folder: Any) -> dict[str, Preset]:
    """The presets of a folder's TOML files: one for each table, named FILE/TABLE.

    Each table holds settings, `about`, and perhaps `grid`; `source` stands at the top of a file.

    Raises:
        ZoplatError: a table has no `about`, or a file no `source`.
    """
    found = {}
    for path in sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        source = tables.pop("source", None)
        for name, settings in tables.items():
            about, grid = settings.pop("about", None), settings.pop("grid", {})
            if not (source and about):
                raise ZoplatError(f"{path.name}, [{name}]: a preset needs `about`, and its file `source`.")
            found[f"{Path(path.name).stem}/{name}"] = Preset(about, source, settings, grid)
    return found
