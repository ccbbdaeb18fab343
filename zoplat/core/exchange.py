"""What several processes of one run tell each other: numbers, never weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256

from zoplat.core.errors import RunFailed

GO, END, FAILED = 0.0, 1.0, 2.0
"""First number of what a rank sends: it goes on; the run is at its end, which rank 0 says; it can't go on."""
ROOM = 14
"""Numbers that travel together with the two at their head. More take a second exchange."""
TURN = 2 + ROOM
"""Numbers of a turn: 128 bytes. More than these travel in a second exchange."""
WORDS = 8
"""Numbers of a digest, of 32 bits each."""


class Ended(Exception):
    """Rank 0 has ended the run; a step that was begun is not made."""


class Exchange(ABC):
    """The processes of one run, called ranks. Every rank makes the same calls in the same order.

    Attributes:
        rank: of this process, from 0. Rank 0 is the run: it alone writes files.
        size: number of ranks; may change between steps where ranks come and go.
        sent: bytes that this rank has given away.
        step: that is being made.
        is_over: whether a rank has failed; nothing is exchanged any more.
    """

    rank: int = 0
    size: int = 1
    sent: int = 0
    is_over: bool = False
    step: int = 0
    _turns: int = 0

    @abstractmethod
    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, as many each, in the order of the ranks.

        Raises:
            RunFailed: a rank is gone, or did not answer in time.
        """

    @abstractmethod
    def broadcast(self, data: bytes, length: int) -> bytes:
        """The bytes that rank 0 gives, `length` of them."""

    def begin(self, step: int) -> None:
        """A step begins; all that is asked next is part of it."""
        self.step = step

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, as many each, in the order of the ranks.

        Raises:
            Ended: rank 0 has called `end` instead.
            RunFailed: a rank has failed, is gone or did not answer in time.
        """
        rows = self._turn(GO, numbers[:ROOM])
        if rest := numbers[ROOM:]:
            rows = [first + more for first, more in zip(rows, self.all_gather(rest), strict=True)]
        return rows

    def points(self, count: int, compute: Callable[[Sequence[int]], Sequence[float]]) -> list[float]:
        """`count` numbers, of which each rank computes some.

        Args:
            count: the same on all ranks.
            compute: the numbers at some indices; called with those of this rank.
        """
        own = list(compute(range(self.rank, count, self.size)))
        most = -(-count // self.size)
        rows = self.gather(own + [0.0] * (most - len(own)))
        return [rows[index % self.size][index // self.size] for index in range(count)]

    def by_first(self, count: int, compute: Callable[[], Sequence[float]]) -> list[float]:
        """`count` numbers that rank 0 computes."""
        return self.gather([0.0] * count if self.rank else list(compute()))[0]

    def share(self, data: bytes = b"") -> bytes:
        """The bytes that rank 0 gives."""
        length = int(self.gather([float(len(data))])[0][0])
        return self.broadcast(data, length) if length else b""

    def agree(self, what: str, value: str) -> None:
        """Check that all ranks have the same.

        Args:
            what: is compared, for the message.
            value: of this rank.

        Raises:
            RunFailed: some have another value than rank 0; on all ranks.
        """
        digest = sha256(value.encode()).digest()
        rows = self.gather([float(int.from_bytes(digest[i : i + 4])) for i in range(0, 4 * WORDS, 4)])
        if others := [str(rank) for rank, row in enumerate(rows) if row != rows[0]]:
            self.is_over = True
            raise RunFailed(
                f"Rank {', '.join(others)} of {self.size} has another {what} than rank 0. Here it is {value}. "
                "Start all ranks with the same command, model, data and versions."
            )

    def end(self) -> None:
        """Rank 0 says that no step follows: what the others ask next raises `Ended` there."""
        self._turn(END, [])

    def fail(self) -> None:
        """Tell the others that this rank can't go on, so that none of them waits for it."""
        if not self.is_over:
            with suppress(RunFailed, Ended):
                self._turn(FAILED, [])

    def _turn(self, flag: float, numbers: Sequence[float]) -> list[list[float]]:
        self._turns += 1
        blank = [0.0] * (ROOM - len(numbers))
        try:
            rows = self.all_gather([flag, float(self._turns), *numbers, *blank])
        except RunFailed:
            self.is_over = True
            raise
        if failed := [rank for rank, row in enumerate(rows) if row[0] == FAILED]:
            self.is_over = True
            raise RunFailed(
                f"Rank {failed[0]} of {self.size} failed, and rank {self.rank} ends too. Its own message says why."
            )
        if any(row[1] != rows[0][1] for row in rows):
            self.is_over = True
            raise RunFailed(
                f"The {self.size} ranks ask different questions. Start all with the same command and versions."
            )
        if rows[0][0] == END and self.rank:
            raise Ended
        return [row[2 : 2 + len(numbers)] for row in rows]
