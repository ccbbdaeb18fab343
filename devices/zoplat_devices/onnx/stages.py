"""Progress of work that takes minutes: a line for each stage, and another every few seconds while it lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 15.0
"""Seconds between two lines of one stage."""


@contextmanager
def stage(text: str, notice: Callable[[str], None], interval: float = INTERVAL) -> Iterator[None]:
    """Within the context, say that a stage is under way, and for how long.

    Args:
        text: what is done.
        notice: is called with a line of text for the user, from another thread too.
        interval: seconds between two lines.
    """
    began, is_over = time.monotonic(), threading.Event()

    def tick() -> None:
        while not is_over.wait(interval):
            notice(f"{text}: {time.monotonic() - began:.0f} s so far")

    notice(text)
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
