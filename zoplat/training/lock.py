"""One writer at a time: a run directory is made and locked by the process that writes it."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from zoplat.core.errors import ZoplatError

LOCK = "lock"
"""Name of the file in a run directory that says who writes it; it is there as long as somebody does."""
NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}
"""What a file system without locks answers."""


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """A context manager: inside it no other process writes the run directory, which is made if it is not there.

    The system frees the lock when the process ends, however it ends, so that a lock of a killed process hinders nobody.
    Folders that were made for nothing, because the run ended before it wrote into them, are removed.

    Raises:
        ZoplatError: another process writes it, or it can't be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with _locked(folder, made):
        yield folder


@contextmanager
def locked_unused(base: Path) -> Iterator[Path]:
    """As `locked`, for `base` or the first of base-2, base-3, … that does not exist and that nobody else takes."""
    made = [path for path in base.parents if not path.exists()]
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(base)
    except OSError as problem:
        raise ZoplatError(f"{base} can't be made: {problem.strerror}. Give --out another place.") from None
    with _locked(folder, [folder, *made]):
        yield folder


def _new_folder(base: Path) -> Path:
    for number in itertools.count(2):
        folder = base if number == 2 else base.with_name(f"{base.name}-{number - 1}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


@contextmanager
def _locked(folder: Path, made: list[Path]) -> Iterator[None]:
    try:
        file = _taken(folder)
    except OSError as problem:
        raise ZoplatError(f"--out {folder}: {problem.strerror}. Choose another place.") from None
    try:
        yield
    finally:
        if _is_file_at(file, folder / LOCK):
            with suppress(OSError):
                (folder / LOCK).unlink()
        os.close(file)
        for path in made:
            try:
                path.rmdir()
            except OSError:  # something is in it
                break


def _taken(folder: Path) -> int:
    """The open and locked file of the lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # whoever had the lock removed the empty folder in between
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            holder = _holder(file)
            if problem.errno not in NO_LOCKS or _lives(holder):
                os.close(file)
                raise _in_use(folder, holder) from None
        if _is_file_at(file, folder / LOCK):
            break
        os.close(file)  # whoever had the lock removed the file in between
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError):  # a full disk: who holds the lock is not said, and it holds all the same
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
    return file


def _in_use(folder: Path, holder: dict[str, object]) -> ZoplatError:
    who = "process {process} on {host} since {since}".format(**holder) if holder else "another process"
    return ZoplatError(
        f"{folder} is in use: {who} writes it. Wait until that one has ended, or give --out another place."
    )


def _holder(file: int) -> dict[str, object]:
    """Process, host and time in a lock; empty where they are not written yet."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
        return {name: holder[name] for name in ("process", "host", "since")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lives(holder: dict[str, object]) -> bool:
    """Whether the process in a lock may still be there; asked only where the file system has no locks."""
    if not holder:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(str(holder["process"])), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_file_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
