"""Claims: a run is made by one worker at a time, whichever process or machine the others are in.

A claim is a lock on a file, which the system frees when its holders end, however they end: nobody has to wait for a
heartbeat to run out. A run's process inherits the claim of its worker, so that a run whose worker was killed is left
alone as long as it goes on by itself.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoplat.training.lock import NO_LOCKS


@contextmanager
def claimed(path: Path, waits: bool = False) -> Iterator[int | None]:
    """A context manager: the open file of the claim on a path, or None where somebody else has it.

    Args:
        path: of the file, which is made if it is not there and is never removed: the next one locks the same file.
        waits: for the others to be done, in place of None.

    Raises:
        OSError: the file can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield file if _locked(file, waits) else None
    finally:
        os.close(file)


def _locked(file: int, waits: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as problem:
        if problem.errno not in NO_LOCKS:  # on a file system without locks, those of run directories must do
            raise
    return True
