"""A limit on the time of a program or a part of it."""

from __future__ import annotations

import signal
import time
from typing import NoReturn

from bench.timing import OutOfTime


class Deadline:
    """A context that raises OutOfTime in its body after so many seconds, and suppresses it outside."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.left == 0

    @property
    def left(self) -> float:
        """Seconds until then, at least 0."""
        return max(0.0, self.until - time.monotonic())

    def __enter__(self) -> Deadline:
        self.before = signal.signal(signal.SIGALRM, self.over)
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-6))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        return kind is OutOfTime

    def over(self, *_: object) -> NoReturn:
        """Signal handler: raise OutOfTime."""
        self.until = time.monotonic()
        raise OutOfTime
