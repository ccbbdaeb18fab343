"""A rank of bench/scaling.py."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat.config.layers import build
from zoplat.core.device import Session
from zoplat.core.example import Row
from zoplat.core.exchange import Exchange
from zoplat.core.losses import Number
from zoplat.training.batches import Batches
from zoplat.training.objective import Objective
from zoplat.training.opening import prepared
from zoplat.training.step import Learner
from zoplat_devices.pytorch.exchange import TorchExchange


@dataclass(frozen=True)
class Sleeping(Objective):
    """The session's loss, which takes longer than it needs.

    Attributes:
        row_seconds: added for each row.
    """

    row_seconds: float = 0.0

    def loss(self, session: Session, rows: Sequence[Row]) -> Number:
        time.sleep(self.row_seconds * len(rows))
        return super().loss(session, rows)


class Alone(Exchange):
    """Rank 0 of several, without the others: its numbers stand for theirs, and nobody is waited for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        return [list(numbers)] * self.size

    def broadcast(self, data: bytes, length: int) -> bytes:
        return data


class Rank:
    """One process of a run.

    Args:
        folder: of the model.
        row_seconds: see `Sleeping`.
        limit: seconds after which another rank is given up.
    """

    def __init__(self, folder: Path, row_seconds: float, limit: float) -> None:
        self.folder, self.objective = folder, Sleeping(row_seconds=row_seconds)
        self.session, self.profiler, self.rows = prepared(self._config("data", 8, 1))
        several = int(os.environ["WORLD_SIZE"]) > 1
        self.exchange: Exchange | None = TorchExchange("cpu", limit) if several else None

    def measured(self, parallel: str, rows: int, queries: int, of: int, steps: int) -> dict[str, Any]:
        """Seconds of each step, or of each exchange where there are no queries; and bytes sent in all.

        Args:
            parallel: "data" or "queries".
            rows: of the batch.
            queries: of a step.
            of: as one of so many ranks, without the others; 1 for the ranks that there are.
            steps: how many.
        """
        exchange = Alone(of) if of > 1 else self.exchange
        before = exchange.sent if exchange else 0
        work = self._steps(parallel, rows, queries, exchange) if queries else self._exchanges()
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds, "sent": exchange.sent - before if exchange else 0}

    def _steps(self, parallel: str, rows: int, queries: int, exchange: Exchange | None) -> Any:
        config = self._config(parallel, rows, queries)
        learner = Learner(config, self.session, self.objective, strategy="sequential", exchange=exchange)
        batches = Batches(self.rows, rows, 0)
        return lambda: learner.advance(batches, self.profiler)

    def _exchanges(self) -> Any:
        exchange = self.exchange
        assert exchange
        return lambda: exchange.gather([0.0])

    def _config(self, parallel: str, rows: int, queries: int) -> Any:
        estimator = {"name": "mezo", "queries": queries}
        device = {"name": "cpu", "strategy": "sequential", "restore": "exact"}
        settings = {"model": str(self.folder), "tune": {"name": "full"}, "dtype": "float32", "limit": 64}
        settings |= {"estimator": estimator, "device": device, "steps": 10**6}
        return build([{**settings, "batch_size": rows, "parallel": parallel, "evaluate_every": 10**6}])
