"""Directions: sums of random vectors by name.

The name of a random vector is (law, key): a few bytes from which any device generates the same entries. Algorithms do
arithmetic on names; only a parameter space generates entries, one tile at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from zoplat.core.blocks import Block, Buffer, Part
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Key
from zoplat.core.sampler import Held, Sampler

FLOAT32_MAX = 3.4e38


class Draw(NamedTuple):
    """One random vector by name.

    Attributes:
        sampler: its law.
        key: its name under that law.
        part: the blocks outside of which it is zero; None for all blocks.
        scales: (buffer, power), …: entries are multiplied by buffer ** power, read whenever entries are generated.
    """

    sampler: Sampler
    key: Key
    part: Part | None = None
    scales: tuple[tuple[Buffer, float], ...] = ()


class Direction:
    """Σ coefficient × random vector, by name. Closed under +, − and scaling; holds no array.

    >>> z = Direction.of("a law", Key(seed=0, step=0, draw=0))
    >>> (2 * z - z - z) == ZERO
    True
    """

    __slots__ = ("_terms",)

    def __init__(self, terms: Mapping[Draw, float] | None = None) -> None:
        self._terms = {draw: c for draw, c in (terms or {}).items() if c != 0.0}

    @classmethod
    def of(cls, sampler: Sampler, key: Key) -> Direction:
        """The vector that `sampler` draws under `key`."""
        return cls({Draw(sampler, key): 1.0})

    @staticmethod
    def mean(coefficients: Sequence[float], directions: Sequence[Direction]) -> Direction:
        """(1/n) Σ cᵢzᵢ for n coefficients and as many vectors.

        >>> z = Direction.of("a law", Key(seed=0, step=0, draw=0))
        >>> Direction.mean([1.0, 3.0], [z, z]) == 2 * z
        True
        """
        pairs = zip(coefficients, directions, strict=True)
        return sum((c / len(directions) * z for c, z in pairs), ZERO)

    def on(self, part: Part) -> Direction:
        """The same vector, zero outside `part`."""
        return self._renamed(lambda draw: draw._replace(part=part if draw.part is None else draw.part & part))

    def scaled(self, buffer: Buffer, power: float = 1.0) -> Direction:
        """Entry by entry times buffer ** power; the buffer is read whenever entries are generated."""
        return self._renamed(lambda draw: draw._replace(scales=(*draw.scales, (buffer, power))))

    def latest(self, n: int) -> Direction:
        """The n newest terms only, in the order in which their draws were first added."""
        return Direction(dict(list(self)[-n:] if n else []))

    def touches(self, block: Block) -> bool:
        """Whether some term may be other than zero on a block."""
        for draw in self._terms:  # noqa: SIM110  # quicker than any(), and asked of every block at every step
            if draw.part is None or block in draw.part:
                return True
        return False

    def check_lasting(self, rule: str) -> None:
        """Refuse a direction that a rule can't keep by name for later steps.

        Args:
            rule: its name, for the message.

        Raises:
            ZoplatError: a term has a buffer in it, or a law that is of its own step alone.
        """
        for draw in self._terms:
            if draw.key.step < 0 or draw.scales or not draw.sampler.is_lasting:
                has_buffer = draw.key.step < 0 or draw.scales or draw.sampler.reads
                found = "a buffer in it, which may have changed by then" if has_buffer else "a law of its own step"
                raise ZoplatError(
                    f"{rule} makes earlier estimates again from their names, and this one has {found} "
                    f"({type(draw.sampler).__name__}). Use another --step-rule, or an estimator such as mezo."
                )

    def reads(self, buffers: Sequence[Buffer]) -> bool:
        """Whether entries are made of one of some buffers, which may not change before they are generated."""
        used = [b for draw in self._terms for b in (*draw.sampler.reads, *(scale for scale, _ in draw.scales))]
        return any(one is other for one in used for other in buffers)

    def has(self, draw: Draw) -> bool:
        """Whether a random vector is one of the terms."""
        return draw in self._terms

    @property
    def is_finite(self) -> bool:
        """Whether every coefficient is finite in float32."""
        return all(abs(c) < FLOAT32_MAX for c in self._terms.values())

    def __iter__(self) -> Iterator[tuple[Draw, float]]:
        return iter(self._terms.items())

    def __len__(self) -> int:
        return len(self._terms)

    def __add__(self, other: Direction) -> Direction:
        terms = dict(self._terms)
        for draw, c in other:
            terms[draw] = terms.get(draw, 0.0) + c
        return Direction(terms)

    def __mul__(self, factor: float) -> Direction:
        return Direction({draw: factor * c for draw, c in self})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Direction:
        return Direction({draw: c / divisor for draw, c in self})

    def __pos__(self) -> Direction:
        return self

    def __neg__(self) -> Direction:
        return -1.0 * self

    def __sub__(self, other: Direction) -> Direction:
        return self + (-other)

    def _renamed(self, rename: Callable[[Draw], Draw]) -> Direction:
        terms: dict[Draw, float] = {}
        for draw, c in self:
            terms[rename(draw)] = terms.get(rename(draw), 0.0) + c
        return Direction(terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Direction) and self._terms == other._terms

    __hash__ = None  # type: ignore[assignment]  # a sum of floats makes a poor dictionary key

    def __repr__(self) -> str:
        return " + ".join(f"{c:g}·z[{d.key.step},{d.key.draw}]" for d, c in self) or "0"


ZERO = Direction()


def held(buffer: Buffer) -> Direction:
    """A buffer as a direction, to be added and scaled like any other; zero on blocks that it does not cover."""
    return Direction.of(Held(buffer), Key(0, -1, -1)).on(Part(frozenset(buffer.arrays)))
