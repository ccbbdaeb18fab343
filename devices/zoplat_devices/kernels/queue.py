"""Queued work for a device: some moves and forward passes as one list, which is performed later or replayed.

What a step of training sends to a device are words: the numbers of terms, and the tokens of a batch. All else is the
same from step to step. So a queue keeps the two apart: the words of all its steps are sent by one copy, and the names
of its steps say whether a recording of the same work can be replayed with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

NO_WORDS = np.zeros(0, np.int64)


class Place(Protocol):
    """A place on the device for the numbers of terms.

    Attributes:
        room: words.
    """

    room: Any

    def forget(self) -> None:
        """Remember that the room may have any numbers."""


class Step(NamedTuple):
    """One piece of queued work.

    Attributes:
        name: all that a recording of it depends on; equal names, equal work on other words.
        words: int64, sent before the work begins.
        run: performs it, given its words on the device; returns losses, a tensor (n,), or None.
        keeps: what has memory that a recording of it reads and writes.
    """

    name: Hashable
    words: np.ndarray
    run: Callable[[Any], Any]
    keeps: Any = None


class Queue:
    """Work in order, to be performed as one.

    Args:
        perform: performs steps; returns the tensor of all losses, or None where there are none.

    Attributes:
        obstacle: why the work can't be recorded; empty where it can.
    """

    def __init__(self, perform: Callable[[Sequence[Step], str], Any]) -> None:
        self.obstacle = ""
        self._perform = perform
        self._steps: list[Step] = []
        self._places: dict[int, Place] = {}
        self._losses: list[Losses] = []
        self._promised = 0

    def add(self, name: Hashable, run: Callable[[Any], Any], words: np.ndarray = NO_WORDS, keeps: Any = None) -> None:
        """Append a step."""
        self._steps.append(Step(name, words, run, keeps))

    def send(self, place: Place, words: np.ndarray, note: Callable[[], None]) -> None:
        """Append the sending of the numbers of terms; `note` is called when they are in the room of the place."""
        self._places[id(place)] = place

        def copied(section: Any) -> None:
            place.room.copy_(section)
            note()

        self.add(("send", id(place)), copied, words, place)

    def promise(self) -> Promise:
        """The next loss of the steps so far."""
        self._promised += 1
        return Promise(self, self._promised - 1)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to perform."""
        return not self._steps

    def finish(self, obstacle: str = "") -> None:
        """Perform the steps so far.

        Args:
            obstacle: why work that follows can't be queued with them; they are not recorded then.
        """
        self.obstacle = self.obstacle or obstacle
        steps, self._steps = self._steps, []
        try:
            if steps and (losses := self._perform(steps, self.obstacle)) is not None:
                self._losses.append(Losses(losses))
        finally:
            for place in self._places.values():
                place.forget()  # a replay fills rooms and notes nothing

    def floats(self) -> list[float]:
        """All losses of the steps; NaN for those of work that failed, whose error is on its way to the caller."""
        found = [loss for losses in self._losses for loss in losses.floats()]
        return found + [math.nan] * (self._promised - len(found))


class Losses:
    """Losses that a device computes, read all at once by the first who asks.

    Args:
        array: (n,) on the device.
    """

    def __init__(self, array: Any) -> None:
        self._array, self._floats = array, list[float]()

    def floats(self) -> list[float]:
        """The losses; waits for the device."""
        if self._array is not None:
            self._array, self._floats = None, [float(loss) for loss in self._array.tolist()]
        return self._floats


class Promise:
    """A loss that a device has to compute; `float()` waits for it.

    Args:
        source: of all losses that are read with it.
        index: of this one.
    """

    def __init__(self, source: Queue | Losses, index: int) -> None:
        self._source, self._index = source, index

    def __float__(self) -> float:
        return self._source.floats()[self._index]
