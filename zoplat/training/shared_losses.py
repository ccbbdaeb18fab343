"""Losses that several ranks compute together: each some rows of the batch, or each some points of a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import nan, sqrt

from zoplat.core.arrays import Array
from zoplat.core.blocks import Part
from zoplat.core.direction import Direction
from zoplat.core.errors import SkipStep, ZoplatError
from zoplat.core.exchange import Exchange
from zoplat.core.input_directions import LossAndRows, count, directions_of, merged, numbers_in, of_all
from zoplat.core.losses import SIDE_TERMS, LossBackend, Number, RecordedLosses, in_blocks
from zoplat.space.parameter_space import ParameterSpace
from zoplat.training.live_losses import LiveLosses
from zoplat.training.objective import shares


def shared(live: LiveLosses, exchange: Exchange, parallel: str) -> LossBackend:
    """The losses of a batch, computed together.

    Args:
        live: those of the whole batch.
        exchange: the ranks.
        parallel: "data" or "queries"; see `RunConfig`.
    """
    exchange.begin(live.step)
    return SharedRows(live, exchange) if parallel == "data" else SharedPoints(live, exchange)


class _Shared(LossBackend):
    """What both kinds have in common.

    Attributes:
        exchange: the ranks.
    """

    exchange: Exchange

    def secret_normals(self, n: int) -> list[float]:
        return self.exchange.by_first(n, lambda: super(_Shared, self).secret_normals(n))

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        raise ZoplatError("Ranks exchange numbers, and a gradient is as large as the weights. Use one process.")


@dataclass
class SharedRows(_Shared):
    """Every rank computes all points, on its part of the rows; means are combined as those of micro-batches are.

    Attributes:
        whole: the losses of the whole batch.
        exchange: the ranks; the rows can be divided by their number.
    """

    whole: LiveLosses
    exchange: Exchange

    def __post_init__(self) -> None:
        self.strategy = self.whole.strategy
        rows, size = self.whole.rows, len(self.whole.rows) // self.exchange.size
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        self.own = replace(self.whole, rows=parts[self.exchange.rank])
        self.shares = shares(parts)

    def together(self) -> AbstractContextManager[None]:
        return self._noticed(self.own.together())

    def forward(self) -> Number:
        with self._noticed():
            return self.own.forward()

    def losses_at(self, directions: Sequence[Direction]) -> list[Number]:
        with self._noticed():
            return self.own.losses_at(directions)

    def as_floats(self, answers: Sequence[Number]) -> list[float]:
        return [nan] * len(answers) if self.exchange.is_over else self._mean(self.own.as_floats(answers))

    def jvp(self, direction: Direction) -> tuple[float, float]:
        loss, derivative = self._mean(self.own.jvp(direction))
        return loss, derivative

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        with self.own.profiler.phase("forward"):
            own = self.own.objective.input_norms(self.own.session, self.own.rows)
        rows = self.exchange.gather([norm for norms in own.values() for norm in norms])
        whole = iter([sqrt(sum(x * x for x in each)) for each in zip(*rows, strict=True)])
        return in_blocks(space, {name: [next(whole) for _ in norms] for name, norms in own.items()})

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        with self._noticed(self.own.profiler.phase("forward")):
            loss, own = self.own.objective.input_directions(self.own.session, self.own.rows, rank, rounds)
        gathered = self.exchange.gather([loss, *numbers_in(of_all(space.blocks, rank, own))])
        parts = [RecordedLosses(self.own.step, each).input_directions(space, rank, rounds) for each in gathered]
        loss = sum(share * part for share, (part, _) in zip(self.shares, parts, strict=True))
        return loss, directions_of(space.blocks, rank, merged([rows for _, rows in parts]))

    def on_batch(self, index: int) -> LossBackend:
        return SharedRows(replace(self.whole, rows=self.whole.batches.auxiliary(self.whole.step, index)), self.exchange)

    def _mean(self, own: Sequence[float]) -> list[float]:
        rows = self.exchange.gather(own)
        return [sum(share * x for share, x in zip(self.shares, each, strict=True)) for each in zip(*rows, strict=True)]

    @contextmanager
    def _noticed(self, inside: AbstractContextManager[None] | None = None) -> Iterator[None]:
        """Tell the other ranks at once what fails in here: the oracle reads what was queued before it gives up."""
        try:
            with inside or nullcontext():
                yield
        except SkipStep:
            raise
        except Exception:
            self.exchange.fail()
            raise


@dataclass
class SharedPoints(_Shared):
    """Every rank computes some points of each question, on the whole batch.

    Points are remembered when they are asked for, and computed when losses are read; so the weights at a point must
    not depend on the way there, and the strategy takes one point at a time: a loss has the same bits on every rank.

    Attributes:
        whole: the losses of the batch.
        exchange: the ranks.
    """

    whole: LiveLosses
    exchange: Exchange
    _asked: list[Direction] = field(default_factory=list)
    _is_written: bool = True

    def __post_init__(self) -> None:
        self.strategy = self.whole.strategy

    def forward(self) -> Number:
        self._is_written = True
        self._asked.append(self.whole.session.space.perturbation)
        return None

    def losses_at(self, directions: Sequence[Direction]) -> list[Number]:
        self._is_written = False
        self._asked += directions
        return [None] * len(directions)

    def as_floats(self, answers: Sequence[Number]) -> list[float]:
        points, self._asked = self._asked, []
        return self.exchange.points(len(points), lambda indices: self._losses([points[i] for i in indices]))

    def jvp(self, direction: Direction) -> tuple[float, float]:
        loss, derivative = self.exchange.by_first(2, lambda: self.whole.jvp(direction))
        return loss, derivative

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        count = sum(block.shape[1] for block in space.blocks if len(block.shape) == 2)
        found = self.exchange.by_first(
            count, lambda: [norm for norms in self.whole.input_norms(space).values() for norm in norms]
        )
        return RecordedLosses(self.whole.step, found).input_norms(space)

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        def compute() -> list[float]:
            loss, found = self.whole.input_directions(space, rank, rounds)
            return [loss, *numbers_in(found)]

        numbers = sum(count(block.shape, rank) * block.shape[1] for block in space.blocks if len(block.shape) == 2)
        answers = self.exchange.by_first(1 + numbers, compute)
        return RecordedLosses(self.whole.step, answers).input_directions(space, rank, rounds)

    def on_batch(self, index: int) -> LossBackend:
        return SharedPoints(
            replace(self.whole, rows=self.whole.batches.auxiliary(self.whole.step, index)), self.exchange
        )

    def _losses(self, points: Sequence[Direction]) -> list[float]:
        """Losses at some points."""
        whole, queued = self.whole, []
        if not points:
            return []
        if self._is_written:
            with whole.together():
                for point in points:
                    whole.session.space.at(point)
                    queued.append(whole.forward())
        elif self.strategy in SIDE_TERMS.values():
            queued = [loss for point in points for loss in whole.losses_at([point])]
        else:
            queued = whole.losses_at(points)
        return whole.as_floats(queued)
