"""Answers about the loss of one batch near θ. Every answer is a number, and every number is journaled."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from zoplat.core.blocks import Buffer, Part
from zoplat.core.direction import ZERO, Direction, held
from zoplat.core.errors import NonFinite
from zoplat.core.losses import LossBackend, Number
from zoplat.core.noise import Key
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace

JVP_PASSES, GRADIENT_PASSES, RECOMPUTED_PASSES = 2, 3, 4
"""What a derivative counts for in forward passes: a pass of pairs; a pass and a backward one of twice its work;
the same with every layer run once more."""


@dataclass
class Tally:
    """What an oracle was asked for.

    Attributes:
        passes: forward passes, a derivative at what it counts for.
        losses: those that were finite.
    """

    passes: int = 0
    losses: list[float] = field(default_factory=list)


class Oracle:
    """Questions about one batch, asked at one step.

    Args:
        space: θ.
        key: seed and step; the draws of this step are named from it.
        progress: share of the run's budget that is spent, in [0, 1); None when the budget is only time.
        source: where answers come from.

    Attributes:
        step: step of the run, from 0.
        answers: every number given so far, in order.
    """

    def __init__(self, space: ParameterSpace, key: Key, progress: float | None, source: LossBackend) -> None:
        self.space = space
        self.step = key.step
        self.progress = progress
        self.answers: list[float] = []
        self._key = key
        self._source = source
        self._names = count()
        self._tally = Tally()

    @property
    def passes(self) -> int:
        """Forward passes asked for so far."""
        return self._tally.passes

    @property
    def loss(self) -> float | None:
        """Mean of the finite losses seen so far."""
        seen = self._tally.losses
        return sum(seen) / len(seen) if seen else None

    def draw(self, sampler: Sampler, n: int) -> list[Direction]:
        """N fresh directions for this step."""
        return [self.space.draw(sampler, self._fresh()) for _ in range(n)]

    def numbers(self, n: int) -> list[float]:
        """N standard normal numbers for this step, for coordinates of the estimator's own."""
        return [float(x) for x in self.space.noise.normal((n,), self._fresh(), "numbers")]

    def losses(self, *directions: Direction) -> list[float]:
        """L(θ + d) for each d, in order; ask together what may be answered together.

        Raises:
            NonFinite: a loss is infinite or not a number; the engine skips the step.
        """
        strategy = self._source.strategy
        if strategy == "sequential" or (strategy == "batched" and len(directions) == 1):
            told = self._walk(directions)
        else:
            left = self.space.deferred_update() if strategy == "batched" else ZERO
            told = self._source.losses_at([left + direction for direction in directions])
            if strategy == "streaming":
                self.space.settle()  # what the answers did not need, all of it where they come from a journal
            self._note(told, len(told), losses=len(told))
        for direction, answer in zip(directions, told, strict=True):
            self._check(direction, answer)
        return told

    def jvp(self, direction: Direction) -> tuple[float, float]:
        """(L(θ), ⟨∇L(θ), d⟩), exact, by forward-mode differentiation. Counts for two passes."""
        self.space.settle()
        told = self._source.jvp(direction)
        self._note(told, JVP_PASSES, losses=1)
        self._check(direction, *told)
        return told

    def gradient(self, part: Part | None = None, recompute: bool = False) -> tuple[float, Direction]:
        """L(θ) and ∇L(θ) on a part, by backpropagation; the vector is good until the next call. Not replayable.

        Args:
            part: the blocks whose gradient is wanted; all when None. What comes before them keeps no activations.
            recompute: keep only what goes into each layer and run it once more on the way back.
        """
        self.space.settle()
        loss, arrays = self._source.gradient(part or self.space.everything, recompute)
        self._note([loss], RECOMPUTED_PASSES if recompute else GRADIENT_PASSES, losses=1)
        gradient = held(Buffer("gradient", arrays))
        self._check(gradient, loss)
        return loss, gradient

    def input_norms(self) -> dict[str, list[float]]:
        """For each matrix, the norm of every input of its layer over this batch; 1 where it has none."""
        self.space.settle()
        told = self._source.input_norms(self.space)
        self._note([norm for norms in told.values() for norm in norms], 1, losses=0)
        if not all(math.isfinite(norm) for norms in told.values() for norm in norms):
            raise NonFinite(f"The norm of an input at step {self.step} is not finite.")
        return told

    def on_batch(self, index: int) -> Oracle:
        """The same questions about another batch, number `index` of those set apart for this step."""
        other = copy.copy(self)  # answers, names and tally are shared
        other._source = self._source.on_batch(index)
        return other

    def _fresh(self) -> Key:
        return Key(self._key.seed, self.step, next(self._names))

    def _walk(self, directions: Sequence[Direction]) -> list[float]:
        """All points are asked for before the first answer is waited for, whatever the answers will be."""
        asked: list[Number] = []
        try:
            for direction in directions:
                self.space.at(direction)
                asked.append(self._source.forward())
        finally:
            told = self._source.known(asked)
            self._note(told, len(told), losses=len(told))
        return told

    def _note(self, answers: Sequence[float], passes: int, losses: int) -> None:
        self.answers += answers
        self._tally.passes += passes
        self._tally.losses += [answer for answer in answers[:losses] if math.isfinite(answer)]

    def _check(self, direction: Direction, *answers: float) -> None:
        for answer in answers:
            if not math.isfinite(answer):
                raise NonFinite(f"The loss at step {self.step}, θ + ({direction}), is {answer}.")
