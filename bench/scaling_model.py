"""What a step of several ranks takes: the cost model of docs/explanation/scaling.md, and its simulation with losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

SHORTEST_TIMEOUT = 0.2
"""Seconds by which TCP's timeout exceeds the round trip at least, in Linux (RFC 6298 has 1 s)."""
LATE_ACK = 0.04
"""Seconds for which the kernel holds back an acknowledgement that no data takes along."""


@dataclass(frozen=True)
class Work:
    """What a rank computes in a step, without waiting: queries × query + points × (point + rows × row) seconds.

    Attributes:
        query: of each direction, for the update, which every rank makes.
        point: of each point: its perturbation, and what a forward pass takes for any batch.
        row: of each row of a batch at each point.
    """

    query: float
    point: float
    row: float

    def seconds(self, queries: int, points: int, rows: float) -> float:
        """Of a step with so many directions and points, each on so many rows."""
        return queries * self.query + points * (self.point + rows * self.row)

    def shared(self, parallel: str, size: int, queries: int, points: int, rows: int) -> float:
        """Of the rank of `size` that has most to do; the parts of the batch are equal."""
        if parallel == "data":
            return self.seconds(queries, points, rows / size)
        return self.seconds(queries, ceil(points / size), rows)


def fitted(cases: Sequence[tuple[int, int, int, float]]) -> Work:
    """The work that comes closest to measured steps of one rank, relative to each: (queries, points, rows, seconds).

    What would take less than no time takes none.
    """
    weights = np.array([[queries, points, points * rows] for queries, points, rows, _ in cases], dtype=float)
    weights /= np.array([case[-1] for case in cases])[:, None]
    used, found = [0, 1, 2], np.zeros(3)
    while used:
        found[:] = 0.0
        found[used] = np.linalg.lstsq(weights[:, used], np.ones(len(cases)), rcond=None)[0]
        if found.min() >= 0:
            break
        used.remove(int(found.argmin()))
    return Work(*map(float, found))


@dataclass(frozen=True)
class Line:
    """What lies between any two ranks.

    Attributes:
        delay: seconds of a packet, one way.
        loss: probability that a packet is lost.
        bandwidth: bytes a second of each rank.
        message: bytes of one rank's numbers for another, with all that goes with it: headers, requests, receipts.
        software: seconds of an exchange of two ranks without delay.
        peer: seconds that each further rank adds to them.
    """

    delay: float = 0.0
    loss: float = 0.0
    bandwidth: float = inf
    message: float = 470.0
    software: float = 0.0
    peer: float = 0.0

    @property
    def round_trip(self) -> float:
        """Seconds, as TCP finds them: a receipt waits a little for data to go with."""
        return 2 * self.delay + LATE_ACK

    def cost(self, size: int) -> float:
        """Seconds of an exchange that do not come from the delay."""
        return self.software + (size - 2) * self.peer + (size - 1) * self.message / self.bandwidth

    def travel(self, chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Seconds of as many messages: with a retransmission, or several, where packets are lost.

        A message is two packets: the request for the next numbers, and numbers. Those wait for the former, whose loss
        TCP notices a round trip and a quarter later, as they have come without it; the loss of numbers it notices by a
        probe after two round trips or by its timeout, whichever is first. Each further loss doubles the timeout.
        """
        late = np.zeros(shape)
        if self.loss:
            timeout = self.round_trip + SHORTEST_TIMEOUT
            late[chance.random(shape) < self.loss] = 1.25 * self.round_trip
            lost = chance.random(shape) < self.loss
            again = chance.geometric(1 - self.loss, int(lost.sum())) - 1
            late[lost] += min(2 * self.round_trip, timeout) + timeout * (2.0**again - 1)
        return self.delay + late


Ready = np.ndarray
"""For each rank, the time at which it has what it needs."""


def mesh(ready: Ready, line: Line, chance: np.random.Generator) -> Ready:
    """Every rank sends to every other, who has asked before: one way."""
    travel = line.travel(chance, (len(ready), len(ready)))
    np.fill_diagonal(travel, 0.0)
    found: Ready = (ready[:, None] + travel).max(axis=0)
    return found


def star(ready: Ready, line: Line, chance: np.random.Generator) -> Ready:
    """Rank 0 collects and sends to all, who have asked before: two ways."""
    there, back = line.travel(chance, ready.shape), line.travel(chance, ready.shape)
    there[0] = back[0] = 0.0
    found: Ready = (ready + there).max() + back
    return found


def ring(ready: Ready, line: Line, chance: np.random.Generator) -> Ready:
    """Each passes on what it got, n − 1 times, and asks its neighbour each time: two ways each; gloo's all-gather."""
    for _ in range(len(ready) - 1):
        ready = np.maximum(ready, np.roll(ready, 1) + line.travel(chance, ready.shape) + line.delay)
    return ready


PATTERNS: dict[str, Callable[[Ready, Line, np.random.Generator], Ready]] = {"mesh": mesh, "star": star, "ring": ring}
"""How numbers reach all ranks; `mesh` is what zoplat does."""


def step_seconds(
    work: float, size: int, line: Line, pattern: str = "mesh", spread: float = 0.0, steps: int = 400, seed: int = 0
) -> float:
    """Mean seconds of a step, simulated: all ranks compute, then wait for the numbers of all.

    Args:
        work: seconds that each rank computes.
        size: number of ranks.
        line: between them.
        pattern: a name in `PATTERNS`.
        spread: standard deviation of the seconds of a rank from step to step, as a part of their mean; log-normal.
        steps: that are simulated.
        seed: of losses and of the spread.
    """
    if size == 1:
        return work
    chance, ready, pass_on = np.random.default_rng(seed), np.zeros(size), PATTERNS[pattern]
    width = np.sqrt(np.log1p(spread**2))
    for _ in range(steps):
        ready = ready + work * chance.lognormal(-(width**2) / 2, width, size)
        ready = pass_on(ready, line, chance) + line.cost(size)
    return float(ready.max()) / steps
