"""Host memory of this process: resident bytes now and at peak; and arrays that need none of it for long."""

import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from zoplat.core.errors import ZoplatError
from zoplat.paths import cache_folder

MIB = 1 << 20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class HostMemory:
    """Peak by the kernel's own counter where it lets us reset it, else by sampling every 10 ms.

    Attributes:
        method: "kernel" or "sampled"; said in the report, for a sampled peak can miss a short one.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self.method = "kernel" if self._kernel_reset() else "sampled"
        if self.method == "sampled":
            threading.Thread(target=self._sample, daemon=True, name="zoplat-memory").start()

    def now(self) -> int:
        """Resident bytes."""
        return int(self._process.memory_info().rss)

    def read(self) -> tuple[int, int]:
        """Resident bytes now, and the most since the last reset."""
        if self.method == "sampled":
            now = self.now()
            return now, max(self._peak, now)
        return _status("VmRSS"), _status("VmHWM")

    @staticmethod
    def peak_of_process() -> int:
        """Most resident bytes since the process began, or since anyone's last reset; Linux only."""
        return _status("VmHWM")

    def reset(self) -> None:
        """Start a new peak."""
        if self.method == "kernel":
            self._kernel_reset()
        else:
            self._peak = 0

    @staticmethod
    def _kernel_reset() -> bool:
        try:
            CLEAR.write_text("5")
        except OSError:
            return False
        return True

    def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, self.now())
            time.sleep(0.01)


def _status(name: str) -> int:
    text = STATUS.read_text()
    start = text.index(name) + len(name) + 1
    return int(text[start : text.index("kB", start)]) * 1024


def mapped(shape: tuple[int, ...], dtype: str) -> Any:
    """A numpy array in a file without a name, zero at first; the system keeps in memory what it has room for."""
    import numpy as np

    with reserved(max(1, math.prod(shape)) * np.dtype(dtype).itemsize) as file:
        return np.memmap(file.file, dtype, mode="r+", shape=shape)


@contextmanager
def reserved(size: int) -> Iterator[Any]:
    """A file of zeros on the cache's disk, which has room for all of them; it loses its name when this is left.

    Raises:
        ZoplatError: the disk is full.
    """
    folder = cache_folder() / "mapped"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
        except OSError as problem:
            raise ZoplatError(
                f"No room for an array of {size / MIB:.0f} MiB in {folder}: {problem.strerror}. "
                "Make room, or let ZOPLAT_CACHE name a folder on another disk."
            ) from None
        yield file
