"""Presets: named settings of a published experiment, from the paper or its code."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoplat.core.errors import ZoplatError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


@dataclass(frozen=True, eq=False)
class Preset:
    """A layer of settings between a method's own and the user's.

    Attributes:
        summary: the experiment, in one line.
        source: the publication or code that has these settings.
        settings: nested tables, as in a settings file.
        grid: dotted path in the estimator → values that the publication searched.
    """

    summary: str
    source: str
    settings: dict[str, Any]
    grid: dict[str, list[Any]]


def read_presets(folder: Traversable) -> dict[str, Preset]:
    """The presets in a folder's TOML files: one for each table, named FILE/TABLE.

    Each table holds settings, `about`, and perhaps `grid`; `source` is a key at the top of a file.

    Args:
        folder: a `Path`, or the folder of a package as `importlib.resources.files` gives it.

    Raises:
        ZoplatError: a file is no TOML, a table has no `about`, or a file no `source`.
    """
    found = {}
    for path in sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as problem:
            raise ZoplatError(f"{path.name}: {problem}.") from None
        source = tables.pop("source", None)
        for name, settings in tables.items():
            if not isinstance(settings, dict):
                raise ZoplatError(f"{path.name}: '{name}' is no table; a preset is a table with `about` and settings.")
            about, grid = settings.pop("about", None), settings.pop("grid", {})
            if not (source and about):
                raise ZoplatError(f"{path.name}, [{name}]: a preset needs `about`, and its file `source`.")
            found[f"{Path(path.name).stem}/{name}"] = Preset(about, source, settings, grid)
    return found
