"""`python -m tests.soak.troubled TROUBLE SEED ARGUMENTS`: zoplat with a disk or a clock that is not well.

full      every write from some moment on fails with "No space left on device"
limit     no file may grow beyond some size, by the operating system (RLIMIT_FSIZE)
slow      every write and every flush to the disk takes up to 30 ms more
clock     the wall clock jumps by up to a day, forth and back, at every twentieth reading
none      nothing
"""

from __future__ import annotations

import errno
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from zoplat.cli import main

DAY = 86_400.0


def full(chance: random.Random) -> None:
    left, write = chance.randrange(400), os.write

    def refuse_later(file: int, data: Any) -> int:
        nonlocal left
        left -= file > 2
        if left < 0 and file > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    os.write = refuse_later


def limit(chance: random.Random) -> None:
    most = chance.randrange(1 << 8, 1 << 15)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def slow(chance: random.Random) -> None:
    write, fsync = os.write, os.fsync

    def slow_write(file: int, data: Any) -> int:
        time.sleep(chance.random() * 0.03 * (file > 2))
        return write(file, data)

    def slow_fsync(file: int) -> None:
        time.sleep(chance.random() * 0.03)
        fsync(file)

    os.write, os.fsync = slow_write, slow_fsync


def clock(chance: random.Random) -> None:
    right, jump, readings = time.time, 0.0, 0

    def jumping() -> float:
        nonlocal jump, readings
        readings += 1
        if readings % 20 == 0:
            jump = chance.uniform(-DAY, DAY)
        return right() + jump

    time.time = jumping


TROUBLES: dict[str, Callable[[random.Random], None]] = {
    "full": full,
    "limit": limit,
    "slow": slow,
    "clock": clock,
    "none": lambda chance: None,
}

if __name__ == "__main__":
    trouble, seed, *arguments = sys.argv[1:]
    TROUBLES[trouble](random.Random(int(seed)))
    main(arguments)
