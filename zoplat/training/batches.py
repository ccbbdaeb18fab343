"""Which rows make the batch of a step: a pure function of seed and step, with rows of similar length together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from zoplat.config.seeds import derived_seed
from zoplat.core.example import Row

WINDOW = 8  # batches whose rows are sorted by length together; larger saves padding, smaller mixes better


class Batches:
    """The training rows in batches, epoch after epoch.

    Args:
        rows: encoded; at least `size` of them.
        size: rows of a batch.
        seed: of the run.
    """

    def __init__(self, rows: Sequence[Row], size: int, seed: int) -> None:
        self.rows = rows
        self.size = size
        self.seed = derived_seed(seed, "data")
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> list[Row]:
        """The batch of a step. Rows left over at the end of an epoch wait for another shuffle."""
        per_epoch = len(self.rows) // self.size
        epoch, index = divmod(step, per_epoch)
        return [self.rows[i] for i in self._epoch(epoch)[index]]

    def auxiliary(self, step: int, index: int) -> list[Row]:
        """Batch number `index` of those set apart for a step, drawn from a stream of its own."""
        return random.Random(f"{self.seed}/{step}/{index}").sample(list(self.rows), self.size)

    def _shuffled(self, epoch: int) -> list[list[int]]:
        order = random.Random(f"{self.seed}/{epoch}")
        indices = list(range(len(self.rows)))
        order.shuffle(indices)
        batches = []
        for start in range(0, len(indices), WINDOW * self.size):
            window = sorted(indices[start : start + WINDOW * self.size], key=lambda i: self.rows[i].length)
            batches += [window[i : i + self.size] for i in range(0, len(window) - self.size + 1, self.size)]
        order.shuffle(batches)
        return batches
