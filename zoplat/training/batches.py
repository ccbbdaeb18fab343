"""Which rows make up the batch of a step: a pure function of seed and step, with rows of similar length together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.example import Row

VERSION = 2
"""Of what a batch is made of. Version 1 left out the longest rows of a window, in small data sets always the same."""
WINDOW, WINDOWS = 8, 4
"""Batches whose rows are sorted by length together: a larger window saves padding, a smaller one mixes better; and how
many such windows an epoch has at least, so that few rows still come in other batches every time."""


class Batches:
    """The training rows in batches, epoch after epoch.

    Args:
        rows: encoded; at least `size` of them.
        size: rows of a batch.
        seed: of the run.
        window: batches whose rows are sorted by length together; with 1, which rows a batch has depends on the seed and
            on no row.
    """

    def __init__(self, rows: Sequence[Row], size: int, seed: int, window: int = WINDOW) -> None:
        self.rows = rows
        self.size = size
        self.window = window
        self.seed = derived_seed(seed, "data")
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> list[Row]:
        """The batch of a step. Random rows that do not fill another batch are left out of an epoch."""
        per_epoch = len(self.rows) // self.size
        epoch, index = divmod(step, per_epoch)
        return [self.rows[i] for i in self._epoch(epoch)[index]]

    def tokens(self, step: int, index: int | None = None) -> int:
        """Tokens of the batch of a step, or of an auxiliary one; of each row those of its longest sequence."""
        return sum(row.length for row in (self.at(step) if index is None else self.auxiliary(step, index)))

    def auxiliary(self, step: int, index: int) -> list[Row]:
        """Auxiliary batch number `index` of a step, from a random stream of its own."""
        return random.Random(f"{self.seed}/{step}/{index}").sample(list(self.rows), self.size)

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """Indices of the rows of each batch of an epoch."""
        order = random.Random(f"{self.seed}/{epoch}")
        indices = list(range(len(self.rows)))
        order.shuffle(indices)
        per_epoch = len(indices) // self.size
        count, batches = self.size * max(1, min(self.window, per_epoch // WINDOWS)), []
        for start in range(0, per_epoch * self.size, count):
            chosen = indices[start : min(start + count, per_epoch * self.size)]
            chosen.sort(key=lambda i: self.rows[i].length)
            batches += [chosen[i : i + self.size] for i in range(0, len(chosen), self.size)]
        order.shuffle(batches)
        return batches


def batches_of(config: RunConfig, rows: Sequence[Row]) -> Batches:
    """The batches of a run.

    A method that hides each row gets batches that are not sorted by length: else to replace one row by a longer one
    would move others from batch to batch, and show in all of them.
    """
    window = WINDOW if config.estimator.noise_multiplier is None else 1
    return Batches(rows, config.batch_size, config.seed, window)
