"""Code of plugins, kept from doing more than failing: it may raise anything, print, or never return."""

from __future__ import annotations

import io
import signal
import threading
from contextlib import redirect_stdout
from types import FrameType, TracebackType

SECONDS = 20.0
"""The longest that a plugin may take to be imported."""


class Guard:
    """A context in which code of a plugin runs.

    What it raises is kept and goes no further, KeyboardInterrupt and SystemExit too, unless a signal came from outside;
    what it prints is kept off standard output, which may carry JSON.

    Args:
        seconds: the longest that it may take; only the main thread is timed.

    Attributes:
        problem: the exception, in one line; empty where there was none.
        printed: what was printed.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.problem = ""
        self._output = io.StringIO()
        self._redirect = redirect_stdout(self._output)
        self._signals: dict[int, object] = {}
        self._is_interrupted = False
        self._timer = (0.0, 0.0)

    @property
    def printed(self) -> str:
        """What was printed, without blanks around it."""
        return self._output.getvalue().strip()

    def __enter__(self) -> Guard:
        self._redirect.__enter__()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)):
                    self._signals[number] = signal.signal(number, self._interrupt)
            if hasattr(signal, "setitimer"):
                self._signals[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._expire)
                self._timer = signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if hasattr(signal, "SIGALRM") and signal.SIGALRM in self._signals:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._signals.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was
        if self._timer[0]:  # somebody's own, which goes on
            signal.setitimer(signal.ITIMER_REAL, *self._timer)
        self._redirect.__exit__(None, None, None)
        if self._is_interrupted:  # whatever became of the exception: the plugin, or Python, may have dropped it
            raise KeyboardInterrupt from None
        if problem is None:
            return False
        self.problem = f"{type(problem).__name__}: {_said(problem)}".partition("\n")[0][:500]
        return True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._is_interrupted = True
        raise KeyboardInterrupt

    def _expire(self, number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it did not end within {self.seconds:g} s")


def _said(problem: BaseException) -> str:
    try:
        return str(problem)
    except Exception:
        return "an exception that can't be printed"
