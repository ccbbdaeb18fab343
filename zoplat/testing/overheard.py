"""An estimator overheard: what it asked, what it then made of it, and of which random numbers both are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from zoplat.core.blocks import Part
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import SkipStep
from zoplat.core.estimator import Estimator
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.core.sampler import Held, Sampler
from zoplat.testing.toys import Address, Asked, Run, Toy, Vector

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Made:
    """A direction as numbers.

    Attributes:
        entries: all of them, float64.
        addresses: of the random numbers that they are made of.
    """

    entries: Vector
    addresses: frozenset[Address]


@dataclass(frozen=True, eq=False)
class Question:
    """One thing that was asked.

    Attributes:
        kind: "loss", "slope" or "gradient".
        about: the direction asked about; of a gradient, the answer.
        answer: the number; 0 for a gradient.
    """

    kind: str
    about: Made
    answer: float


@dataclass(frozen=True, eq=False)
class Heard:
    """One estimate, and what led to it.

    Attributes:
        step: of the run.
        estimate: what was yielded.
        eps: the radius it claims.
        asked: the questions of its step until then.
        fresh: those of them since the estimate before.
        kept: the buffers that are in the estimate and, where there is state, all that was asked about in earlier steps.
        before, after: the loss before and after it was applied.
        rate: step size of the plain rule that applied it.
    """

    step: int
    estimate: Made
    eps: float
    asked: list[Question]
    fresh: list[Question]
    kept: list[Made]
    before: float
    after: float
    rate: float

    @property
    def strangers(self) -> list[Address]:
        """Random numbers in the estimate that were in no question of its step, and that state can't have kept."""
        return sorted(self.estimate.addresses.difference(*(known.addresses for known in self._known)), key=str)

    @property
    def outside(self) -> Mask:
        """Where the estimate moves an entry that no question of its step moved, and that state can't have kept."""
        outside: Mask = self.estimate.entries != 0
        for known in self._known:
            outside &= known.entries == 0
        return outside

    @property
    def _known(self) -> list[Made]:
        return [*self.kept, *(question.about for question in self.asked)]

    def shares(self, slope: Vector) -> list[float]:
        """For each direction in the estimate, what its coefficient is of the slope along it, averaged as it should be.

        1 throughout for a mean of slopes times directions, where directions that meet on no block are added up. Empty
        where the answers do not show the slopes, or the estimate is no sum of the directions asked about.

        Args:
            slope: the gradient of the linear loss.
        """
        directions = self._directions()
        if not directions or not self._shows_slopes():
            return []
        vectors = np.array(directions)
        coefficients = np.linalg.lstsq(vectors.T, self.estimate.entries, rcond=None)[0]
        rest = np.abs(coefficients @ vectors - self.estimate.entries).max()
        if np.linalg.matrix_rank(vectors) < len(vectors) or rest > 1e-6 * np.abs(self.estimate.entries).max():
            return []
        weights = np.abs(coefficients) * np.linalg.norm(vectors, axis=1)
        used = weights > 1e-9 * weights.max()
        meets = ((vectors[used] != 0).astype(float) @ (vectors[used] != 0).T.astype(float)) > 0
        return [float(share) for share in coefficients[used] * meets.sum(axis=1) / (vectors[used] @ slope)]

    def _directions(self) -> list[Vector]:
        """What was asked about since the last estimate, at length 1/ε of it, each line once; empty if not only that."""
        found: list[Vector] = []
        for question in self.fresh:
            if question.kind == "gradient" or (question.kind == "loss" and not self.eps > 0):
                return []
            vector = question.about.entries / (self.eps if question.kind == "loss" else 1.0)
            length = np.linalg.norm(vector)
            if length and not any(abs(vector @ v) > (1 - 1e-9) * length * np.linalg.norm(v) for v in found):
                found.append(vector)
        return found

    def _shows_slopes(self) -> bool:
        """Whether losses at these points tell a linear function's slopes: not without a base or its like."""
        points = np.array([q.about.entries / self.eps for q in self.fresh if q.kind == "loss"])
        if not len(points):
            return True
        beside = np.column_stack([np.ones(len(points)), points])
        return bool(np.linalg.matrix_rank(beside) == np.linalg.matrix_rank(points) + 1)


class Listener(Oracle):
    """A toy's oracle that keeps what it was asked beside what it said.

    Attributes:
        questions: so far, in order.
        kinds: what was asked for, as `Estimator.asks` puts it.
        part: where draws are not zero; everywhere when None.
    """

    def __init__(self, toy: Toy, step: int, steps: int, part: Part | None = None) -> None:
        super().__init__(toy.space, Key(0, step, 0), step / steps, Asked(toy))
        self.questions: list[Question] = []
        self.kinds: set[str] = set()
        self.toy, self.part = toy, part

    def draw(self, sampler: Sampler, n: int) -> list[Direction]:
        drawn = super().draw(sampler, n)
        return drawn if self.part is None else [z.on(self.part) for z in drawn]

    def losses(self, *directions: Direction) -> list[float]:
        self.kinds.add("losses")
        about = [made(self.toy, direction) for direction in directions]
        told = super().losses(*directions)
        self.questions += [Question("loss", *both) for both in zip(about, told, strict=True)]
        return told

    def jvp(self, direction: Direction) -> tuple[float, float]:
        self.kinds.add("jvp")
        about = made(self.toy, direction)
        told = super().jvp(direction)
        self.questions.append(Question("slope", about, told[1]))
        return told

    def gradient(self, part: Part | None = None, recompute: bool = False) -> tuple[float, Direction]:
        self.kinds.add("gradient")
        loss, gradient = super().gradient(part, recompute)
        self.questions.append(Question("gradient", made(self.toy, gradient), 0.0))
        return loss, gradient

    def input_norms(self) -> dict[str, list[float]]:
        self.kinds.add("input norms")
        return super().input_norms()


def overhear(estimator: Estimator, toy: Toy, steps: int) -> list[Heard]:
    """All estimates of a run whose rule steps along them."""
    space, rule = toy.space, estimator.rule
    state, rule_state = estimator.init(space), rule.init_for(space, estimator.law)
    found, past = [], made(toy, ZERO)
    for step in range(steps):
        oracle, seen, before = Listener(toy, step, steps), 0, toy.loss(toy.theta)
        with suppress(SkipStep):
            for estimate in estimator.estimate(oracle, state):
                itself, held = made(toy, estimate.direction), made(toy, _held_in(estimate.direction))
                asked, fresh, seen = oracle.questions[:], oracle.questions[seen:], len(oracle.questions)
                rule.apply(estimate, oracle, rule_state)
                after = toy.loss(toy.theta)
                rate = rule.rate(oracle) or 0.0
                found.append(Heard(step, itself, estimate.eps, asked, fresh, [held, past], before, after, rate))
                before = after
        if state is not None:
            past = _both(past, *(question.about for question in oracle.questions))
    return found


def strangers_in_rule(estimator: Estimator, toy: Toy, steps: int) -> Iterator[tuple[int, list[Address], int]]:
    """For each step the random numbers that its rule used and no question so far had in it; and how many it used."""
    known, run, space = set[Address](), Run(toy, estimator, steps), toy.space
    for step in range(steps):
        oracle = Listener(toy, step, steps)
        for estimate in estimator.estimate(oracle, run.state):
            with toy.noise.listening() as used:
                estimator.rule.apply(estimate, oracle, run.rule_state)
                space.settle()
            known = known.union(*(question.about.addresses for question in oracle.questions))
            yield step, sorted(used - known, key=str), len(used)


def in_words(address: Address) -> str:
    """Where random numbers come from."""
    keys = [part for part in address if isinstance(part, Key)]
    where = ", ".join(f"'{part}'" for part in address if isinstance(part, str))
    return f"those of {where}" + "".join(f" at step {key.step}, draw {key.draw}" for key in keys)


def made(toy: Toy, direction: Direction) -> Made:
    """A direction as numbers, with the random numbers that they are made of."""
    with toy.noise.listening() as heard:
        entries = toy.entries(direction)
    return Made(entries, frozenset(heard))


def _both(*several: Made) -> Made:
    """What is in one of several: addresses, and a 1 for each entry."""
    entries = np.any([each.entries != 0 for each in several], axis=0)
    return Made(entries.astype(np.float64), frozenset().union(*(each.addresses for each in several)))


def _held_in(direction: Direction) -> Direction:
    """The terms that are buffers, whatever their coefficient."""
    return Direction({draw: 1.0 for draw, _ in direction if isinstance(draw.sampler, Held)})
