"""The result of a run, or its weights, in a folder of its own."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.paths import check_writable

WEIGHTS = ("model*.safetensors", "adapter_model.safetensors", "weights.safetensors")
"""Files of which every export has one."""


def check_target(to: Path, model: str | None) -> None:
    """Raise ZoplatError unless a folder is new, empty or what an earlier export made; nothing is written.

    Args:
        to: the folder.
        model: what the run began with; None for the device's own.
    """
    check_writable(to, "--to")
    names = [path.name for path in to.iterdir()] if to.is_dir() else []
    if "config.toml" in names:
        what = "is a run directory"
    elif model and os.path.isdir(model) and to.is_dir() and os.path.samefile(model, to):
        what = "is the model that the run began with"
    elif names and not any(fnmatch(name, pattern) for name in names for pattern in WEIGHTS):
        what = f"has other files, such as {min(names)}"
    else:
        return
    raise ZoplatError(f"--to {to} {what}. Give a new folder, an empty one, or one that was exported to before.")


def export(session: Session, to: Path) -> list[str]:
    """Write the weights as they are, in the form that other programs load; returns the names of the files."""
    before = _changed(to)
    session.export(to)
    return sorted(name for name, changed in _changed(to).items() if before.get(name) != changed)


def _changed(folder: Path) -> dict[str, tuple[int, int]]:
    """By name of each file, when it was written, and as which one."""
    facts = {path.name: path.stat() for path in folder.iterdir()} if folder.is_dir() else {}
    return {name: (one.st_mtime_ns, one.st_ino) for name, one in facts.items()}
