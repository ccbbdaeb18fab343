"""Folders and files: the cache, atomic replacement, checks that a place can be written."""

import os
from contextlib import suppress
from pathlib import Path

from zoplat.core.errors import ZoplatError


def cache_folder() -> Path:
    """The folder for what can be computed again: $ZOPLAT_CACHE, or zoplat/ in the user's cache folder."""
    base = os.environ.get("ZOPLAT_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoplat"


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old text or the new one, never a part."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def flush_to_disk(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk when this returns."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def check_writable(path: Path, flag: str) -> None:
    """Raise ZoplatError when a folder can't be made at `path`, which `flag` gave; nothing is written."""
    ancestor = path.absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise ZoplatError(f"{flag} {path}: {ancestor} is a file, not a folder. Choose another place.")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ZoplatError(f"{flag} {path}: no permission to write in {ancestor}. Choose another place.")
