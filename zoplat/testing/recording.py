"""Recorded runs: each query of the oracle, each estimate, and the random numbers that both are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from zoplat.core.blocks import Part
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import SkipStep
from zoplat.core.estimator import Estimator
from zoplat.core.input_directions import LossAndRows
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.core.sampler import Sampler
from zoplat.testing.noise import Address, Vector
from zoplat.testing.runs import Run
from zoplat.testing.toys import Toy, ToyLosses

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Entries:
    """A direction as numbers.

    Attributes:
        values: all entries, float64.
        addresses: of the random numbers that they are computed from.
    """

    values: Vector
    addresses: frozenset[Address]


@dataclass(frozen=True, eq=False)
class Query:
    """One query of the oracle.

    Attributes:
        kind: "loss", "slope" or "gradient".
        direction: of the probe; for a gradient, the gradient itself.
        answer: the number; 0 for a gradient.
    """

    kind: str
    direction: Entries
    answer: float


@dataclass(frozen=True, eq=False)
class RecordedEstimate:
    """One estimate, and the queries that led to it.

    Attributes:
        step: of the run.
        estimate: what was yielded.
        eps: the radius it claims.
        queries: those of its step so far.
        fresh: those of them since the previous estimate.
        drawn: the directions that were drawn in its step.
        kept: the buffers that are in the estimate and, where there is state, all directions of earlier steps.
        before, after: the loss before and after it was applied.
        rate: step size of the plain rule that applied it.
    """

    step: int
    estimate: Entries
    eps: float
    queries: list[Query]
    fresh: list[Query]
    drawn: list[Vector]
    kept: list[Entries]
    before: float
    after: float
    rate: float

    @property
    def unprobed_numbers(self) -> list[Address]:
        """Random numbers in the estimate that no query of its step contains, and that state can't have kept."""
        return sorted(self.estimate.addresses.difference(*(known.addresses for known in self._known)), key=str)

    @property
    def unprobed_entries(self) -> Mask:
        """Where the estimate moves an entry that no query of its step perturbed, and that state can't have kept."""
        unprobed: Mask = self.estimate.values != 0
        for known in self._known:
            unprobed &= known.values == 0
        return unprobed

    @property
    def _known(self) -> list[Entries]:
        return [*self.kept, *(query.direction for query in self.queries)]

    def shares(self, slope: Vector) -> list[float]:
        """For each direction in the estimate, what its coefficient is of the slope along it, averaged as it should be.

        1 throughout for a mean of slopes times directions, where directions without a common block are added up. Empty
        where the answers do not determine the slopes, or the estimate is no linear combination of the probed
        directions.

        Args:
            slope: the gradient of the linear loss.
        """
        directions = self._directions()
        if not directions or not self._determines_slopes():
            return []
        vectors = np.array(directions)
        coefficients = np.linalg.lstsq(vectors.T, self.estimate.values, rcond=None)[0]
        rest = np.abs(coefficients @ vectors - self.estimate.values).max()
        if np.linalg.matrix_rank(vectors) < len(vectors) or rest > 1e-6 * np.abs(self.estimate.values).max():
            return []
        weights = np.abs(coefficients) * np.linalg.norm(vectors, axis=1)
        used = weights > 1e-9 * weights.max()
        overlaps = ((vectors[used] != 0).astype(float) @ (vectors[used] != 0).T.astype(float)) > 0
        return [float(share) for share in coefficients[used] * overlaps.sum(axis=1) / (vectors[used] @ slope)]

    @property
    def masked(self) -> int:
        """Entries that the probes moved and the estimate leaves out, though it is a sum of the probes on all others."""
        directions, moved = self._directions(), self.estimate.values != 0
        if not directions or moved.sum() <= len(directions):
            return 0
        vectors, least = np.array(directions), 1e-6 * np.abs(self.estimate.values).max()
        coefficients = np.linalg.lstsq(vectors[:, moved].T, self.estimate.values[moved], rcond=None)[0]
        whole = coefficients @ vectors
        if np.abs(whole - self.estimate.values)[moved].max() > least:
            return 0
        return int((np.abs(whole[~moved]) > least).sum())

    def _directions(self) -> list[Vector]:
        """The probed directions since the last estimate, each line once; empty after other queries.

        As they were drawn, whatever the radius; what is no multiple of a draw is divided by ε.
        """
        found: list[Vector] = []
        for query in self.fresh:
            if query.kind == "gradient" or (query.kind == "loss" and not self.eps > 0):
                return []
            probed = query.direction.values / (self.eps if query.kind == "loss" else 1.0)
            vector = next((z for z in self.drawn if _are_parallel(z, probed)), probed)
            if vector.any() and not any(_are_parallel(vector, v) for v in found):
                found.append(vector)
        return found

    def _determines_slopes(self) -> bool:
        """Whether losses at these points determine a linear function's slopes: its constant must cancel."""
        points = np.array([q.direction.values / self.eps for q in self.fresh if q.kind == "loss"])
        if not len(points):
            return True
        affine = np.column_stack([np.ones(len(points)), points])
        return bool(np.linalg.matrix_rank(affine) == np.linalg.matrix_rank(points) + 1)


def _are_parallel(one: Vector, other: Vector) -> bool:
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return bool(lengths and abs(one @ other) > (1 - 1e-9) * lengths)


class RecordingOracle(Oracle):
    """A toy's oracle that records its queries with their answers.

    Attributes:
        queries: so far, in order.
        drawn: directions so far.
        kinds: what was queried, as `Estimator.asks` names it.
        part: outside of which draws are zero; None for all blocks.
    """

    def __init__(self, toy: Toy, step: int, steps: int, part: Part | None = None) -> None:
        super().__init__(toy.space, Key(0, step, 0), step / steps, ToyLosses(toy, f"0/{step}"))
        self.queries: list[Query] = []
        self.drawn: list[Vector] = []
        self.kinds: set[str] = set()
        self.toy, self.part = toy, part

    def draw(self, sampler: Sampler, n: int) -> list[Direction]:
        drawn = super().draw(sampler, n)
        drawn = drawn if self.part is None else [z.on(self.part) for z in drawn]
        self.drawn += [entries(self.toy, z).values for z in drawn]
        return drawn

    def losses(self, *directions: Direction) -> list[float]:
        self.kinds.add("losses")
        probes = [entries(self.toy, direction) for direction in directions]
        losses = super().losses(*directions)
        self.queries += [Query("loss", probe, loss) for probe, loss in zip(probes, losses, strict=True)]
        return losses

    def row_losses(self, *points: Direction | Sequence[Direction], skips: bool = True) -> list[list[float]]:
        self.kinds.add("row losses")
        losses = super().row_losses(*points, skips=skips)
        for point, row in zip(points, losses, strict=True):
            asked = [point] * len(row) if isinstance(point, Direction) else point
            self.queries += [Query("loss", entries(self.toy, d), loss) for d, loss in zip(asked, row, strict=True)]
        return losses

    def jvp(self, direction: Direction) -> tuple[float, float]:
        self.kinds.add("jvp")
        probe = entries(self.toy, direction)
        loss, slope = super().jvp(direction)
        self.queries.append(Query("slope", probe, slope))
        return loss, slope

    def gradient(self, part: Part | None = None, recompute: bool = False) -> tuple[float, Direction]:
        self.kinds.add("gradient")
        loss, gradient = super().gradient(part, recompute)
        self.queries.append(Query("gradient", entries(self.toy, gradient), 0.0))
        return loss, gradient

    def input_norms(self) -> dict[str, list[float]]:
        self.kinds.add("input norms")
        return super().input_norms()

    def input_directions(self, rank: int, rounds: int) -> LossAndRows:
        self.kinds.add("input directions")
        loss, found = super().input_directions(rank, rounds)
        self.queries.append(Query("loss", entries(self.toy, ZERO), loss))
        return loss, found


def record_estimates(estimator: Estimator[Any], toy: Toy, steps: int) -> list[RecordedEstimate]:
    """All estimates of a run whose rule steps along them."""
    space, rule = toy.space, estimator.rule
    state, rule_state = estimator.init(space), rule.init_for(space, estimator.law)
    found, past = [], entries(toy, ZERO)
    for step in range(steps):
        oracle, seen, before = RecordingOracle(toy, step, steps), 0, toy.loss(toy.theta)
        with suppress(SkipStep):
            for estimate in estimator.estimate(oracle, state):
                values, held = entries(toy, estimate.direction), entries(toy, _held_in(estimate.direction))
                queries, fresh, seen = oracle.queries[:], oracle.queries[seen:], len(oracle.queries)
                rule.apply(estimate, oracle, rule_state)
                after = toy.loss(toy.theta)
                rate = rule.rate(oracle) or 0.0
                known = oracle.drawn[:], [held, past]
                found.append(RecordedEstimate(step, values, estimate.eps, queries, fresh, *known, before, after, rate))
                before = after
        if state is not None:
            past = _union(past, *(query.direction for query in oracle.queries))
    return found


def unprobed_in_rule(estimator: Estimator[Any], toy: Toy, steps: int) -> Iterator[tuple[int, list[Address], int]]:
    """For each step the random numbers that its rule used and no query so far contained; and how many it used."""
    known, run, space = set[Address](), Run(toy, estimator, steps), toy.space
    for step in range(steps):
        oracle = RecordingOracle(toy, step, steps)
        for estimate in estimator.estimate(oracle, run.state):
            with toy.noise.recording() as used:
                estimator.rule.apply(estimate, oracle, run.rule_state)
                space.settle()
            known = known.union(*(query.direction.addresses for query in oracle.queries))
            yield step, sorted(used - known, key=str), len(used)


def in_words(address: Address) -> str:
    """An address of random numbers, for a message."""
    keys = [part for part in address if isinstance(part, Key)]
    where = ", ".join(f"'{part}'" for part in address if isinstance(part, str))
    return f"those of {where}" + "".join(f" at step {key.step}, draw {key.draw}" for key in keys)


def entries(toy: Toy, direction: Direction) -> Entries:
    """A direction as numbers, with the addresses of the random numbers in it."""
    with toy.noise.recording() as used:
        values = toy.entries(direction)
    return Entries(values, frozenset(used))


def _union(*several: Entries) -> Entries:
    """The addresses in any of several, and a 1 for each entry that is not 0 in all of them."""
    touched = np.any([each.values != 0 for each in several], axis=0)
    return Entries(touched.astype(np.float64), frozenset().union(*(each.addresses for each in several)))


def _held_in(direction: Direction) -> Direction:
    """The terms that are made of buffers, with coefficient 1."""
    return Direction({draw: 1.0 for draw, _ in direction if draw.sampler.reads})
