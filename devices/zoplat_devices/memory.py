"""Host memory of this process: resident bytes now and at peak; numpy arrays in memory and in mapped files."""

import ctypes
import math
import os
import sys
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
MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
STATUS, CLEAR, MAPPINGS = (Path("/proc/self") / name for name in ("status", "clear_refs", "smaps"))


class HostMemory:
    """Resident memory of this process: the peak from the kernel's counter where that can be reset, else sampled.

    Attributes:
        method: "kernel", or "sampled" every 10 ms, which can miss a short peak; reports say which.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self.method = "kernel" if self._kernel_reset() else "sampled"
        if self.method == "sampled":
            threading.Thread(target=self._sample, daemon=True, name="zoplat-memory").start()

    def now(self) -> int:
        """Resident bytes now."""
        return int(self._process.memory_info().rss)

    def read(self) -> tuple[int, int]:
        """Resident bytes now, and the most since the last reset."""
        if self.method == "sampled":
            now = self.now()
            return now, max(self._peak, now)
        text = STATUS.read_text()
        return _status("VmRSS", text), _status("VmHWM", text)

    @staticmethod
    def of_files() -> int:
        """Resident bytes of pages of files: code, and what is mapped from other files; 0 where Linux is not there."""
        return _status("RssFile") if STATUS.exists() else 0

    @staticmethod
    def mapped() -> int:
        """Those of them that are not code, such as weights; it takes milliseconds."""
        return sum(size for path, size in _mappings() if path.startswith("/") and ".so" not in Path(path).suffixes)

    def kept_free(self) -> int:
        """Resident bytes that the allocator of C had kept after they were freed; it gives them back now.

        0 where it is not that of glibc.
        """
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is None:
            return 0
        before = self.now()
        trim(0)
        return max(0, before - self.now())

    @staticmethod
    def peak_of_process() -> int:
        """Most resident bytes since the process began, or since anyone's last reset; Linux only."""
        return _status("VmHWM")

    def reset(self) -> None:
        """Start a new peak from the bytes of now."""
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


def _mappings() -> Iterator[tuple[str, int]]:
    """(path, resident bytes) of every mapping of this process; no path for anonymous ones."""
    path = ""
    for line in MAPPINGS.read_text().splitlines() if MAPPINGS.exists() else ():
        words = line.split(maxsplit=5)
        if words[0].endswith(":"):
            if words[0] == "Rss:":
                yield path, int(words[1]) * 1024
        else:
            path = words[5] if len(words) > 5 else ""


def _status(name: str, text: str = "") -> int:
    text = text or STATUS.read_text()
    start = text.index(name) + len(name) + 1
    return int(text[start : text.index("kB", start)]) * 1024


def trim() -> None:
    """Give memory that was freed back to the system, where the C library is one that can (glibc)."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release:
        release(0)


@contextmanager
def data_within(limit: int) -> Iterator[str]:
    """A context in which Linux gives this process no private memory that would bring it above a limit.

    The kernel counts private memory whether it is resident or not, so what is reserved now and not resident is allowed
    on top; what is reserved later and never used counts in full.

    Args:
        limit: resident bytes that the process may have.

    Returns:
        A context with what enforces it; "" where the system has no such limit.
    """
    if sys.platform != "linux":
        yield ""
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = max(0, _status("VmData") + limit - _status("VmRSS"))
    known = [bound for bound in (before, most) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([allowed, *known]), most))
    try:
        yield "RLIMIT_DATA"
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def empty(shape: tuple[int, ...], dtype: str) -> Any:
    """A numpy array in memory, with whatever was there."""
    import numpy as np

    return np.empty(shape, dtype)


def mapped(shape: tuple[int, ...], dtype: str) -> Any:
    """A numpy array of zeros in an unnamed file; the system keeps in memory as much of it as there is room for."""
    import numpy as np

    with reserved(max(1, math.prod(shape)) * np.dtype(dtype).itemsize) as file:
        return np.memmap(file.file, dtype, mode="r+", shape=shape)


@contextmanager
def reserved(size: int) -> Iterator[Any]:
    """A file of `size` zero bytes on the cache's disk, allocated in full; its name is removed when the context ends.

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


def give_back(above: int) -> None:
    """Have the C library (glibc) give every array above a size back to the system as soon as it is freed.

    Else it raises that size by itself to what was freed last, up to 32 MiB, and keeps what is smaller.

    Args:
        above: bytes.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if option:
        option(MMAP_THRESHOLD, above)
