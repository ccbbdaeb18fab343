"""Factors U and V of low-rank draws on all matrices of a space, drawn once and kept while they are in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import Draw
from zoplat.core.noise import Key, KeysOf
from zoplat.core.sampler import Sampler
from zoplat.space.backend import Backend
from zoplat.space.buffers import MakeArray

Basis: TypeAlias = frozenset[Key]
"""The name of a V: the keys that it is drawn under. Draws of one law that have the same name have the same V."""
Shapes: TypeAlias = Mapping[str, tuple[int, int]]
"""Shape of U, (rows, rank), or of Vᵀ, (rank, columns), by name of the matrix."""


class Side:
    """U or Vᵀ of all matrices at n points, in one array, so that a sum over all matrices is one operation.

    Args:
        make: makes arrays.
        shapes: of the factor.
        n: number of points.
        dtype: of the entries.

    Attributes:
        whole: (n, entries), matrix after matrix.
        of: name of a matrix → its part of `whole`, (n, *shape).
        first: name of a matrix → that of the first point.
    """

    def __init__(self, make: MakeArray, shapes: Shapes, n: int, dtype: str) -> None:
        self.whole = make((n, sum(one * other for one, other in shapes.values())), dtype)
        self.of: dict[str, Array] = {}
        begin = 0
        for name, (one, other) in shapes.items():
            self.of[name] = self.whole[:, begin : begin + one * other].reshape(n, one, other)
            begin += one * other
        self.first = {name: array[0] for name, array in self.of.items()}

    @property
    def bytes(self) -> int:
        """Bytes of the array."""
        return int(self.whole.nbytes)


class Factors(NamedTuple):
    """U and Vᵀ of a draw, and the name of V."""

    u: Side
    vt: Side
    basis: Basis


class Law:
    """What a space knows of a low-rank law.

    Args:
        sampler: the law.
        backend: of the space.

    Attributes:
        matrices: the blocks on which its draws have factors.
        u, vt: shapes of U and Vᵀ.
        dtype: in which they are drawn and summed up.
    """

    def __init__(self, sampler: Sampler, backend: Backend) -> None:
        self._sampler, self._noise = sampler, backend.noise
        self.matrices: list[Block] = []
        self.u: dict[str, tuple[int, int]] = {}
        self.vt: dict[str, tuple[int, int]] = {}
        for block in backend.blocks:
            factors = self._one_row(block, Key(0, 0, 0))
            if factors is not None:
                self.matrices.append(block)
                rank = factors[0].shape[1]
                self.u[block.name], self.vt[block.name] = (block.shape[0], rank), (rank, block.shape[1])
        self.dtype = self.matrices[0].wide_dtype if self.matrices else ""
        self._shares_v = bool(self.matrices) and self._does_share_v()

    @property
    def fits(self) -> bool:
        """Whether its draws have factors here, all on matrices of one dtype."""
        return len({block.dtype for block in self.matrices}) == 1

    def basis(self, key: Key) -> Basis:
        """The name of V under a key."""
        if not self._shares_v:
            return frozenset({key})
        noise = KeysOf(self._noise)
        self._one_row(self._smallest, key, noise)
        return frozenset(noise.keys - {key}) or frozenset({key})

    @property
    def _smallest(self) -> Block:
        return min(self.matrices, key=lambda block: block.size)

    def _one_row(self, block: Block, key: Key, noise: KeysOf | None = None) -> tuple[Array, Array] | None:
        return self._sampler.factors(Tile(block, 0, 1), key, noise or self._noise)

    def _does_share_v(self) -> bool:
        """Whether two draws of one step have the same V, so that it depends on keys that are not their own."""
        one, other = (self._one_row(self._smallest, Key(0, 0, draw)) for draw in (0, 1))
        return one is not None and other is not None and float(abs(one[1] - other[1]).sum()) == 0.0


class FactorCache:
    """The factors of the draws that are in use.

    Args:
        backend: draws them.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._laws: dict[Sampler, Law] = {}
        self._drawn: dict[Draw, Factors] = {}
        self._free: list[Side] = []

    @property
    def bytes(self) -> int:
        """Bytes of all factors that are kept."""
        sides = {id(side): side for factors in self._drawn.values() for side in (factors.u, factors.vt)}
        return sum(side.bytes for side in (*sides.values(), *self._free))

    def law(self, sampler: Sampler) -> Law:
        """What is known of a law; found out once."""
        if sampler not in self._laws:
            self._laws[sampler] = Law(sampler, self._backend)
        return self._laws[sampler]

    def basis(self, draw: Draw) -> Basis:
        """The name of a draw's V."""
        known = self._drawn.get(draw._replace(part=None))
        return known.basis if known else self.law(draw.sampler).basis(draw.key)

    def of(self, draw: Draw) -> Factors:
        """The factors of a draw; on all matrices, whatever its part."""
        draw = draw._replace(part=None)
        if draw not in self._drawn:
            law = self.law(draw.sampler)
            basis = law.basis(draw.key)
            shared = next((f.vt for d, f in self._drawn.items() if (d.sampler, f.basis) == (draw.sampler, basis)), None)
            u, vt = self._side(law.u, law.dtype), shared or Side(self._backend.empty, law.vt, 1, law.dtype)
            self._backend.draw_factors(draw, law.matrices, u.first, None if shared else vt.first)
            self._drawn[draw] = Factors(u, vt, basis)
        return self._drawn[draw]

    def keep(self, draws: Iterable[Draw]) -> None:
        """Keep the factors of these draws and of no others."""
        wanted = {draw._replace(part=None) for draw in draws}
        for draw in [draw for draw in self._drawn if draw not in wanted]:
            self._free.append(self._drawn.pop(draw).u)

    def _side(self, shapes: Shapes, dtype: str) -> Side:
        """Room for a U: one that is not in use, where there is one, else new."""
        for side in self._free:
            if all(side.first[name].shape == shape for name, shape in shapes.items() if name in side.first):
                self._free.remove(side)
                return side
        self._free.clear()
        return Side(self._backend.empty, shapes, 1, dtype)
