"""The batched strategy: losses at several points near θ by one forward pass, which only reads the weights.

The batch is stacked once for each point. While the model runs, stand-ins take the place of its trainable parameters;
see `stand_ins` for how their uses are followed. A trial run finds uses that can't be followed, and parameters that are
never used, before a loss is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

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

Compute: TypeAlias = "Callable[[Sequence[Row], Sequence[Any]], list[Any]]"
"""(rows, points) → what one forward pass gives for each point."""


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
        compute = partial(self._forward, checks=False)
        return [loss for some in groups for loss in self._split_to_fit(rows, some, tokens, compute)]

    def row_losses(self, rows: Sequence[Row], points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        """Loss of each row at θ + d, with a d of its own at each point, in as few forward passes as fit.

        Raises:
            ZoplatError: a trainable parameter is used in a way that can't be followed.
        """
        if not self._is_checked:
            self.check(rows[:2])
        if len({self._scorer.sequences([row]) for row in rows}) > 1:  # a branch has as many sequences as any other
            return [[self.losses([row], [d])[0] for row, d in zip(rows, point, strict=True)] for point in points]
        tokens = self._scorer.sequences(rows) * max(row.length for row in rows)
        groups = cut(points, tokens, min(self._most or TOKENS, self._fitting))
        return [losses for some in groups for losses in self._split_to_fit(rows, some, tokens, self._forward_rows)]

    def _split_to_fit(self, rows: Sequence[Row], points: Sequence[Any], tokens: int, compute: Compute) -> list[Any]:
        """What is computed by one forward pass; by several with fewer points where memory does not suffice."""
        try:
            return compute(rows, points)
        except torch.OutOfMemoryError:
            if len(points) == 1:
                raise
        half = len(points) // 2
        self._fitting = (len(points) - 1) * tokens
        parts = points[:half], points[half:]
        return [found for some in parts for found in self._split_to_fit(rows, some, tokens, compute)]

    def _forward_rows(self, rows: Sequence[Row], points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        """One forward pass in which every row of every point is a branch, or every point where its rows have one d."""
        copies = len(points)
        is_common = all(direction == point[0] for point in points for direction in point)
        directions = [point[0] for point in points] if is_common else [d for point in points for d in point]
        with torch.inference_mode():
            if self._recordings:
                self._recordings.release()
            weights = BranchWeights(self._space, directions, self._scratch)
            sequences = copies * self._scorer.sequences(rows)
            losses = self._run(weights, sequences, False, lambda: self._scorer.row_losses(rows, copies))
            return losses.double().tolist()

    def _forward(self, rows: Sequence[Row], directions: Sequence[Direction], checks: bool) -> list[Number]:
        with torch.inference_mode():
            weights, copies = BranchWeights(self._space, directions, self._scratch), len(directions)
            recordings, places = self._recordings, weights.places
            sequences = copies * self._scorer.sequences(rows)
            if recordings is None or checks or places is None:
                if recordings:
                    recordings.release()
                losses = self._run(weights, sequences, checks, lambda: self._scorer.losses(rows, copies))
            else:
                batch = self._scorer.packed([*rows] * copies)

                def run(words: Any) -> Any:
                    return self._run(weights, sequences, False, lambda: self._scorer.means(batch.on(words), copies))

                step = Step(("points", batch.form, places), batch.words.numpy(), run, weights.arrays)
                losses = recordings.perform([step]).clone()
            source = Losses(losses)
            return [Promise(source, index) for index in range(copies)] if losses.is_cuda else [*source.floats()]

    def _run(self, weights: BranchWeights, sequences: int, checks: bool, compute: Callable[[], Any]) -> Any:
        """What is computed of a stack of sequences while stand-ins have the place of what some branch probes.

        Raises:
            ZoplatError: one of them was not used.
        """
        dispatcher = self._dispatcher
        dispatcher.begin(weights, sequences, checks)
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
