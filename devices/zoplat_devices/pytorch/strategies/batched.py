"""The batched strategy: losses at several points near θ by one forward pass, which only reads the weights.

The batch is stacked once for each point. While the model runs, stand-ins take the place of its trainable parameters;
see `stand_ins` for how their uses are followed. A trial run finds uses that can't be followed, and parameters that are
never used, before a loss is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.losses import Number
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.kernels.queue import Losses, Promise, Step
from zoplat_devices.pytorch.parameters import by_address, replaced, slots
from zoplat_devices.pytorch.recordings import Recordings
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.pytorch.strategies.branch_weights import BranchWeights, Scratch
from zoplat_devices.pytorch.strategies.stand_ins import Dispatcher
from zoplat_devices.text.layout import TOKENS, cut


class BatchedEvaluator:
    """Losses at θ + d for several d.

    Args:
        model: whose parameters the blocks are.
        space: its arrays hold θ whenever losses are computed.
        scorer: runs the model on a batch.
        recordings: of forward passes; None where none are made.
        most: target number of tokens in one forward pass; `TOKENS` when None.
    """

    def __init__(
        self,
        model: Any,
        space: ParameterSpace,
        scorer: Scorer,
        recordings: Recordings | None = None,
        most: int | None = None,
    ) -> None:
        self._most = most
        self._space, self._scorer, self._recordings = space, scorer, recordings
        self._is_checked = False
        self._fitting = sys.maxsize
        self._scratch = Scratch()
        self._dispatcher = Dispatcher()
        self._slots = slots(model, by_address(space.blocks))

    @property
    def bytes(self) -> int:
        """Memory held between calls."""
        return self._scratch.bytes

    def check(self, rows: Sequence[Row]) -> None:
        """Try a forward pass; raise ZoplatError when a use of a trainable parameter can't be followed."""
        self._forward(rows, [ZERO, ZERO], checks=True)
        self._is_checked = True

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[Number]:
        """L(θ + d) for each d, in as few forward passes as the number of tokens and the memory allow.

        Raises:
            ZoplatError: a trainable parameter is used in a way that can't be followed.
        """
        if not self._is_checked:
            self.check(rows[:2])  # two are enough to see an order, and take little memory
        tokens = self._scorer.sequences(rows) * max(row.length for row in rows)
        groups = cut(directions, tokens, min(self._most or TOKENS, self._fitting))
        return [loss for some in groups for loss in self._split_to_fit(rows, some, tokens)]

    def _split_to_fit(self, rows: Sequence[Row], directions: Sequence[Direction], tokens: int) -> list[Number]:
        """The losses of one forward pass; of several with fewer points where memory does not suffice."""
        try:
            return self._forward(rows, directions, checks=False)
        except torch.OutOfMemoryError:
            if len(directions) == 1:
                raise
        half = len(directions) // 2
        self._fitting = (len(directions) - 1) * tokens
        parts = directions[:half], directions[half:]
        return [loss for some in parts for loss in self._split_to_fit(rows, some, tokens)]

    def _forward(self, rows: Sequence[Row], directions: Sequence[Direction], checks: bool) -> list[Number]:
        with torch.inference_mode():
            weights, copies = BranchWeights(self._space, directions, self._scratch), len(directions)
            recordings, places = self._recordings, weights.places
            if recordings is None or checks or places is None:
                if recordings:
                    recordings.release()
                losses = self._run(weights, rows, checks, lambda: self._scorer.losses(rows, copies))
            else:
                batch = self._scorer.packed([*rows] * copies)

                def run(words: Any) -> Any:
                    return self._run(weights, rows, False, lambda: self._scorer.means(batch.on(words), copies))

                step = Step(("points", batch.form, places), batch.words.numpy(), run, weights.arrays)
                losses = recordings.perform([step]).clone()
            source = Losses(losses)
            return [Promise(source, index) for index in range(copies)] if losses.is_cuda else [*source.floats()]

    def _run(self, weights: BranchWeights, rows: Sequence[Row], checks: bool, compute: Callable[[], Any]) -> Any:
        """What is computed while stand-ins have the place of the parameters that some branch probes.

        Raises:
            ZoplatError: one of them was not used.
        """
        dispatcher = self._dispatcher
        dispatcher.begin(weights, weights.count * self._scorer.sequences(rows), checks)
        chosen = [slot for slot in self._slots if slot.block.name in dispatcher.expected]
        with replaced(chosen, lambda slot: dispatcher.stand_in(slot.parameter, slot.block)):
            found = compute()
        missed = dispatcher.expected - dispatcher.seen
        if missed:
            raise ZoplatError(
                f"{min(missed)} has no part in the forward pass that could be seen, so the batched strategy can't "
                "probe it. Use -o device.strategy=sequential, or leave it out of --tune."
            )
        return found
