"""Jobs in threads that take turns: all of them reach a station before any of them goes on to the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from zoplat.core.errors import ZoplatError

END = "the end"


class Relay:
    """Runs jobs in threads of their own, one at a time.

    A job that reaches a station waits there until all others have reached it. So the jobs pass through every station
    one after the other, in their order, before the first of them enters the next one.

    Args:
        count: number of jobs.
        on_turn: is called with the number of the job whose turn it is, in that job's thread.
    """

    def __init__(self, count: int, on_turn: Callable[[int], None]) -> None:
        self.count = count
        self._on_turn = on_turn
        self._turns = [threading.Semaphore(0) for _ in range(count)]
        self._stations = [""] * count
        self._own = threading.local()
        self._problem: BaseException | None = None

    def run(self, jobs: Sequence[Callable[[], float]]) -> list[float]:
        """The results of the jobs. The first exception stops all of them, and is raised."""
        results = [0.0] * self.count

        def work(number: int) -> None:
            self._own.number = number
            try:
                self._wait(number)
                results[number] = jobs[number]()
            except BaseException as problem:
                self._problem = self._problem or problem
            self._hand_on(number, END)

        threads = [
            threading.Thread(None, work, f"point {number}", (number,), daemon=True) for number in range(self.count)
        ]
        for thread in threads:
            thread.start()
        self._turns[0].release()
        self._join(threads)
        if self._problem:
            raise self._problem
        return results

    def meet(self, station: str) -> None:
        """Wait until every job has reached this station and those before this one have gone on from it."""
        self._hand_on(self._own.number, station)
        self._wait(self._own.number)

    def _hand_on(self, number: int, station: str) -> None:
        """Give the turn to the next job; after the last one, all must be at the same station."""
        self._stations[number] = station
        following = (number + 1) % self.count
        if following == 0 and len({*self._stations}) > 1 and not self._problem:
            reached = " and ".join(sorted({*self._stations}))
            self._problem = ZoplatError(
                f"The forward pass differs from point to point: at the same time they reach {reached}. "
                "Use -o device.strategy=sequential."
            )
        for turn in self._turns if self._problem else [self._turns[following]]:
            turn.release()

    def _wait(self, number: int) -> None:
        self._turns[number].acquire()
        if self._problem:
            raise _Stopped
        self._on_turn(number)

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        try:
            for thread in threads:
                thread.join()
        except BaseException as problem:  # such as Ctrl-C, which arrives in the main thread
            self._problem = self._problem or problem
            for thread in threads:
                thread.join()


class _Stopped(BaseException):
    """Ends the thread of a job after another one has failed."""
