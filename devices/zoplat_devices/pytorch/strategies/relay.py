"""Several jobs that run in turn and wait for each other at every station."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from zoplat.core.errors import ZoplatError

END = "the end"


class Relay:
    """Runs jobs in threads of their own, never two at a time.

    A job that comes to a station hands on and goes in only when all others have come there: they pass through every
    station one after the other, in their order, before the first of them enters the next one.

    Args:
        count: jobs.
        take: is told the number of the job that goes on, in its thread.
    """

    def __init__(self, count: int, take: Callable[[int], None]) -> None:
        self.count = count
        self._take = take
        self._batons = [threading.Semaphore(0) for _ in range(count)]
        self._places = [""] * count
        self._own = threading.local()
        self._problem: BaseException | None = None

    def run(self, jobs: Sequence[Callable[[], float]]) -> list[float]:
        """What the jobs come to. The first problem stops all of them, and is raised."""
        told = [0.0] * self.count

        def work(number: int) -> None:
            self._own.number = number
            try:
                self._wait(number)
                told[number] = jobs[number]()
            except BaseException as problem:
                self._problem = self._problem or problem
            self._hand_on(number, END)

        threads = [
            threading.Thread(None, work, f"point {number}", (number,), daemon=True) for number in range(self.count)
        ]
        for thread in threads:
            thread.start()
        self._batons[0].release()
        self._join(threads)
        if self._problem:
            raise self._problem
        return told

    def meet(self, station: str) -> None:
        """Wait until every job is here and those before this one have left."""
        self._hand_on(self._own.number, station)
        self._wait(self._own.number)

    def _hand_on(self, number: int, place: str) -> None:
        self._places[number] = place
        following = (number + 1) % self.count
        if following == 0 and len({*self._places}) > 1 and not self._problem:
            ways = " and ".join(sorted({*self._places}))
            self._problem = ZoplatError(f"The model takes different ways at different points: to {ways}.")
        for baton in self._batons if self._problem else [self._batons[following]]:
            baton.release()

    def _wait(self, number: int) -> None:
        self._batons[number].acquire()
        if self._problem:
            raise _Stopped
        self._take(number)

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        try:
            for thread in threads:
                thread.join()
        except BaseException as problem:  # such as Ctrl-C, which comes to the main thread
            self._problem = self._problem or problem
            for thread in threads:
                thread.join()


class _Stopped(BaseException):
    """Another job has failed."""
