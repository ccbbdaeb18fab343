"""Answers about the loss of one batch near θ. Every answer is a number, and every number is journaled."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

from zoplat.blocks import Buffer, Part
from zoplat.direction import ZERO, Direction, Key
from zoplat.errors import NonFinite, ZoplatError
from zoplat.sampler import Sampler, held
from zoplat.space import ParameterSpace

if TYPE_CHECKING:
    Array: TypeAlias = Any

Number: TypeAlias = Any
"""A float, or what a device will make one of: its own array of one number, which `float()` waits for."""

JVP_PASSES, GRADIENT_PASSES, RECOMPUTED_PASSES = 2, 3, 4
"""What a derivative counts for in forward passes: a pass of pairs; a pass and a backward one of twice its work;
the same with every layer run once more."""


class Source(ABC):
    """Where answers come from: a session and a batch, or a journal. Weights are where the caller brought them.

    Attributes:
        road: how several losses that are asked together are found: "walk" from point to point; "batch", by one
            forward pass that leaves the weights at θ; or "stream", layer by layer, where a layer is first brought to θ.
    """

    road: str = "walk"

    @abstractmethod
    def forward(self) -> Number:
        """Loss of the batch at the weights as they stand."""

    def known(self, answers: Sequence[Number]) -> list[float]:
        """Answers of `forward` as floats, once the device has found them all."""
        return [float(answer) for answer in answers]

    def branches(self, directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d, the weights being at θ and staying there; by streaming, they get there on the way."""
        raise NotImplementedError

    def jvp(self, direction: Direction) -> tuple[float, float]:
        """Loss at θ, and its exact derivative along a direction."""
        raise NotImplementedError

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        """Loss at θ, and its gradient with respect to the blocks of a part."""
        raise NotImplementedError

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        """For each matrix, the Euclidean norm of every input of its layer over the batch, 1 where there is none."""
        raise NotImplementedError

    def elsewhere(self, index: int) -> Source:
        """The same for another batch of this step."""
        raise NotImplementedError


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

    def __init__(self, space: ParameterSpace, key: Key, progress: float | None, source: Source) -> None:
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
        road = self._source.road
        if road == "walk" or (road == "batch" and len(directions) == 1):
            told = self._walk(directions)
        else:
            left = self.space.put_off() if road == "batch" else ZERO
            told = self._source.branches([left + direction for direction in directions])
            if road == "stream":
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

    def elsewhere(self, index: int) -> Oracle:
        """The same questions about another batch, number `index` of those set apart for this step."""
        other = copy.copy(self)  # answers, names and tally are shared
        other._source = self._source.elsewhere(index)
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


class Recorded(Source):
    """Answers from a journal: the same moves without a model.

    Args:
        step: for the error message.
        answers: of that step, in order.
        road: the one that was taken.
    """

    def __init__(self, step: int, answers: Sequence[float], road: str = "walk") -> None:
        self.road = road
        self.step = step
        self._count = len(answers)
        self._remaining: Iterator[float] = iter(answers)

    def forward(self) -> float:
        for answer in self._remaining:
            return answer
        raise ZoplatError(
            f"The journal has {self._count} answers for step {self.step}, the estimator asks for more. "
            "It was made with another estimator or another version of it."
        )

    def branches(self, directions: Sequence[Direction]) -> list[float]:
        return [self.forward() for _ in directions]

    def jvp(self, direction: Direction) -> tuple[float, float]:
        return self.forward(), self.forward()

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        raise ZoplatError(
            f"Step {self.step} was made with a gradient, which a journal of numbers does not hold: this method can't "
            "be replayed. Its checkpoint has the weights."
        )

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        matrices = [block for block in space.blocks if len(block.shape) == 2]
        return {block.name: [self.forward() for _ in range(block.shape[1])] for block in matrices}

    def elsewhere(self, index: int) -> Source:
        return self


def in_blocks(space: ParameterSpace, known: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Norms for every matrix of the space, 1 for those that are not known."""
    return {
        block.name: [float(x) for x in known.get(block.name, [1.0] * block.shape[1])]
        for block in space.blocks
        if len(block.shape) == 2
    }
