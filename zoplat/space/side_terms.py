"""Side terms: low-rank perturbations and updates that forward passes add in factors, so that no weight is written.

On matrices θ = W + A Vᵀ, W what the arrays hold. While draws share V, their updates are added up in A, which has the
shape of U; W is written when V is renewed, and when something reads θ. All other blocks are brought to θ at every
question. Which draws share V is known by name: by the keys that V is drawn under.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Part
from zoplat.core.direction import ZERO, Direction, Draw
from zoplat.core.low_rank import Accumulated
from zoplat.core.noise import Key
from zoplat.core.sampler import Sampler
from zoplat.space.backend import Backend
from zoplat.space.factors import Basis, FactorCache, Factors, Law, Shapes, Side
from zoplat.space.lazy import LazyWeights

Terms: TypeAlias = "list[tuple[Draw, float]]"
"""Terms of a direction that share V."""


class SideTerm(NamedTuple):
    """U Vᵀ of every matrix at n points.

    Attributes:
        u: name of a matrix → (n, rows, rank).
        vt: name of a matrix → Vᵀ, (rank, columns) where all points have the same, else (n, rank, columns).
    """

    u: Mapping[str, Array]
    vt: Mapping[str, Array]


class Deferred(NamedTuple):
    """Updates that are not written yet.

    Attributes:
        draw: A Vᵀ, by the name that it has in directions.
        law: of the draws that were added up.
        factors: A and V.
    """

    draw: Draw
    law: Sampler
    factors: Factors


class SideTerms:
    """The low-rank updates of a space that are not written yet, and the side terms of its forward passes.

    Args:
        backend: of the space.
        weights: the arrays of the space.
    """

    def __init__(self, backend: Backend, weights: LazyWeights) -> None:
        self._backend, self._weights = backend, weights
        self._cache = FactorCache(backend)
        self._deferred: Deferred | None = None
        self._scratch: dict[tuple[str, int], tuple[Shapes, Side]] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all factors that are kept."""
        own = [self._deferred.factors.u] if self._deferred else []
        return self._cache.bytes + sum(side.bytes for side in (*own, *(side for _, side in self._scratch.values())))

    def law(self, sampler: Sampler) -> Law:
        """What is known of a law; found out once."""
        return self._cache.law(sampler)

    def points(self, directions: Sequence[Direction]) -> list[Direction] | None:
        """For each θ + d, what is to be added to what the arrays hold; None where that is not of low rank.

        The pending update is added to A where its draws and those of the directions share one V, and performed on the
        blocks without factors. Otherwise it is performed everywhere.
        """
        update = self._weights.pending
        draws = list(dict.fromkeys(_random(update.decayed, update.undecayed, *directions)))
        laws = {draw.sampler for draw in draws}
        if any(draw.scales for draw in draws) or len(laws) > 1 or not all(self.law(law).fits for law in laws):
            return None
        deferred = self._deferred if self._deferred and update.undecayed.has(self._deferred.draw) else None
        bases = {(draw.sampler, self._cache.basis(draw)) for draw in draws}
        if deferred:
            bases.add((deferred.law, deferred.factors.basis))
        if not update:
            points = [*directions]
        elif len(bases) == 1 and update.is_uniform and not self._weights.is_mid_pass:
            moved = self._defer(deferred, [(draw, c) for draw, c in update.undecayed if not _is_held(draw)])
            points = [moved + direction for direction in directions]
        else:
            self._weights.move_to(ZERO)
            points = [*directions]
        self._cache.keep(draws)
        return points

    def of(self, points: Sequence[Direction]) -> list[SideTerm] | None:
        """The side terms of some points, U of terms that share V summed up.

        There are as many as a point has terms of different V. None where a draw has no factors or is of another law.
        """
        draws = [draw for point in points for draw, _ in point]
        laws = {self._sampler(draw) for draw in draws}
        if any(draw.scales for draw in draws) or len(laws) > 1 or not all(law and self.law(law).fits for law in laws):
            return None
        lines = [self._by_basis(point) for point in points]
        return [
            self._side_term(slot, [line[slot] if slot < len(line) else [] for line in lines])
            for slot in range(max(map(len, lines), default=0))
        ]

    def _defer(self, deferred: Deferred | None, terms: Terms) -> Direction:
        """Add the terms of an update to A, and perform them on the blocks without factors; A Vᵀ as a direction."""
        if deferred is None:
            draw, _ = terms[0]
            factors, law = self._cache.of(draw), self.law(draw.sampler)
            a = self._room("A", law.u, 1, law.dtype)
            a.whole[:] = 0.0
            name = Draw(Accumulated(a.first, factors.vt.first), Key(0, -1, -1), Part(frozenset(law.u)))
            deferred = self._deferred = Deferred(name, draw.sampler, Factors(a, factors.vt, factors.basis))
        direction = Direction({deferred.draw: 1.0})
        if terms:
            a = deferred.factors.u
            self._add(a.whole, a.first, terms)
            matrices = self.law(deferred.law).u
            self._weights.defer([b for b in self._weights.blocks if b.name not in matrices], direction)
        return direction

    def _sum(self, whole: Array, of: Mapping[str, Array], terms: Terms) -> None:
        """Σ cU of some terms, as `_add` has it."""
        is_whole = bool(terms) and (terms[0][0].part is None or _is_held(terms[0][0]))
        if is_whole:
            whole[:] = self._factors(terms[0][0]).u.whole
            if terms[0][1] != 1.0:
                whole *= terms[0][1]
        else:
            whole[:] = 0.0
        self._add(whole, of, terms[is_whole:])

    def _add(self, whole: Array, of: Mapping[str, Array], terms: Terms) -> None:
        """Add cU of each term, in order: s ← s + (cU), product and sum each rounded."""
        for draw, c in terms:
            scaled, law = self._factors(draw).u, self._law_of(draw)
            if c != 1.0:
                scaled = self._room("scaled", law.u, 1, law.dtype)
                scaled.whole[:] = self._factors(draw).u.whole
                scaled.whole *= c
            if draw.part is None or _is_held(draw):
                whole += scaled.whole
                continue
            for name, array in of.items():
                if name in draw.part.names:
                    array += scaled.first[name]

    def _side_term(self, slot: int, groups: Sequence[Terms]) -> SideTerm:
        """One side term: for each point, some terms that share V."""
        draw = next(group[0][0] for group in groups if group)
        law = self._law_of(draw)
        u = self._room(f"U {slot}", law.u, len(groups), law.dtype)
        for i, group in enumerate(groups):
            self._sum(u.whole[i : i + 1], {name: array[i] for name, array in u.of.items()}, group)
        own = [self._factors(group[0][0]).vt if group else None for group in groups]
        some = next(vt for vt in own if vt)
        is_common = all(vt is None or vt is some for vt in own)
        copies = [some] if is_common else own
        is_copied = self._backend.keeps_places or not is_common
        vt = self._room(f"V {slot}", law.vt, len(copies), law.dtype) if is_copied else some
        for i, each in enumerate(copies if is_copied else []):
            vt.whole[i : i + 1] = (each or some).whole
        if (dtype := law.matrices[0].dtype) != law.dtype:
            u, vt = self._converted(f"U {slot}", u, law.u, dtype), self._converted(f"V {slot}", vt, law.vt, dtype)
        return SideTerm(u.of, vt.first if is_common else vt.of)

    def _by_basis(self, point: Direction) -> list[Terms]:
        """The terms of a point, those that share V together."""
        found: dict[Basis, Terms] = {}
        for draw, c in point:
            found.setdefault(self._factors(draw).basis, []).append((draw, c))
        return [*found.values()]

    def _factors(self, draw: Draw) -> Factors:
        if self._deferred and draw == self._deferred.draw:
            return self._deferred.factors
        return self._cache.of(draw)

    def _sampler(self, draw: Draw) -> Sampler | None:
        """The law of a draw, or of those in A; None for an A that was written and is no more."""
        if not _is_held(draw):
            return draw.sampler
        return self._deferred.law if self._deferred and draw == self._deferred.draw else None

    def _law_of(self, draw: Draw) -> Law:
        law = self._sampler(draw)
        assert law is not None
        return self.law(law)

    def _converted(self, purpose: str, side: Side, shapes: Shapes, dtype: str) -> Side:
        """The same numbers in another dtype."""
        made = self._room(f"{purpose}, {dtype}", shapes, len(side.whole), dtype)
        made.whole[:] = side.whole
        return made

    def _room(self, purpose: str, shapes: Shapes, n: int, dtype: str) -> Side:
        """An array for a purpose; its memory is reused by the next call with the same purpose, number and shapes."""
        held = self._scratch.get((purpose, n))
        if held is None or held[0] is not shapes:
            held = self._scratch[purpose, n] = shapes, Side(self._backend.empty, shapes, n, dtype)
        return held[1]


def _is_held(draw: Draw) -> bool:
    return isinstance(draw.sampler, Accumulated)


def _random(*directions: Direction) -> Iterator[Draw]:
    """The draws of some directions but for A Vᵀ."""
    return (draw for direction in directions for draw, _ in direction if not _is_held(draw))
