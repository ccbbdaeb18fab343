"""Folders and files: the cache, private folders in it, atomic replacement, checks that a place can be written."""

import atexit
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from zoplat.core.errors import ZoplatError


def named_cache() -> Path | None:
    """$ZOPLAT_CACHE, or zoplat/ in the user's cache folder; None for a user without a home. It may not exist."""
    if base := os.environ.get("ZOPLAT_CACHE"):
        return Path(base)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base, "zoplat")
    try:
        return Path.home() / ".cache" / "zoplat"
    except RuntimeError:  # neither HOME nor an entry for this user
        return None


def cache_folder() -> Path:
    """The folder for what can be computed again; where `named_cache` can't be written, one that ends with the process.

    Nothing depends on the cache: without it, kernels and models are made once for each process.
    """
    named = named_cache()
    return named if named and _is_writable(named) else _temporary(named)


def in_cache(*parts: str) -> Path:
    """A place in the cache: where it is already, though the folder may be read-only; else in `cache_folder`."""
    named = named_cache()
    known = named.joinpath(*parts) if named else None
    return known if known and _exists(known) else cache_folder().joinpath(*parts)


def private_folder(name: str) -> Path:
    """A folder in the cache that no other user can write; a temporary one where the cache has another's."""
    folder = cache_folder() / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        if not _is_own(folder):
            folder = _temporary(folder) / name
            folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    return folder


def is_private(path: Path) -> bool:
    """Whether a file or folder is this user's, or root's, no link, and nobody else may write it."""
    facts = path.lstat()
    return _is_own(path) and not stat.S_ISLNK(facts.st_mode) and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_own(path: Path) -> bool:
    return not hasattr(os, "geteuid") or path.lstat().st_uid in (0, os.geteuid())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError):
        return False


@cache
def _temporary(instead_of: Path | None) -> Path:
    """A folder that is removed when the process ends; always the same one in place of the same folder."""
    folder = tempfile.mkdtemp(prefix="zoplat-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def replace_text(path: Path, text: str, lasts: bool = False) -> None:
    """Write a text file atomically, as `replace_bytes` does."""
    replace_bytes(path, text.encode(), lasts)


def replace_bytes(path: Path, content: bytes, lasts: bool = False) -> None:
    """Write a file atomically: readers see the old content or the new one, never a part, and so do other writers.

    Args:
        path: of the file.
        content: of the file from now on.
        lasts: whether a power cut leaves the old content or the new one too; else it may leave an empty file.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        beside.write_bytes(content)
        if lasts:
            flush_to_disk(beside)
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
    while not _exists(ancestor):
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise ZoplatError(f"{flag} {path}: {ancestor} is a file, not a folder. Choose another place.")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ZoplatError(f"{flag} {path}: no permission to write in {ancestor}. Choose another place.")
