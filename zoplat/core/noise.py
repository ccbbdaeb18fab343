"""Random numbers by address: the keys that name draws, and the noise that generates them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TypeAlias

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Tile
from zoplat.core.orthonormal import orthonormal

Stream: TypeAlias = tuple[int, int]
"""Two 32-bit keys of a sequence of random words."""


@dataclass(frozen=True)
class Key:
    """The name of one draw.

    Attributes:
        seed: the run's perturbation seed.
        step: step of the run, from 0.
        draw: index of the draw within the step, from 0; −1 for what all draws of a step share.
    """

    seed: int
    step: int
    draw: int

    def at(self, step: int) -> Key:
        """The key that all draws of `step` share; for what is drawn once for several steps."""
        return Key(self.seed, step, -1)

    def epoch(self, interval: int) -> Key:
        """The key that all draws of an interval share: that of its first step, a multiple of `interval`.

        With an interval of 0, the key of step 0 for the whole run.
        """
        return self.at(self.step - self.step % interval if interval else 0)


class Noise(ABC):
    """Random numbers by address: the same address always gives the same numbers, on any device and in any order.

    An address is any sequence of a `Key`, a `Tile` and strings. A tile contributes the name of its block, and its
    numbers are those of its rows, so a block gets the same numbers however it is split into tiles. The definition,
    version 1, is `docs/explanation/noise.md`; devices implement only `numbers`.
    """

    name = "zoplat-1"

    def normal(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Array:
        """Standard normal numbers of the given shape."""
        return self._at("normal", shape, address)

    def sign(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Array:
        """+1 or −1 with equal probability."""
        return self._at("sign", shape, address)

    def uniform(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Array:
        """Uniform on [0, 1), multiples of 2⁻²⁴."""
        return self._at("uniform", shape, address)

    def coarse(self, shape: tuple[int, ...], *address: Key | Tile | str) -> Array:
        """Uniform on (0, 1), odd multiples of 2⁻¹⁷: 16 random bits for each number, for stochastic rounding."""
        return self._at("coarse", shape, address)

    def orthonormal(self, shape: tuple[int, int], key: Key, *place: str) -> Array:
        """The rows of a normal array, (r, n) with r ≤ n, made orthonormal as `orthonormal` does; not to be written to.

        Kept until the same place is asked for under another key: a basis serves all draws of an interval.
        """
        known = self._bases.get(place)
        if known is None or known[:2] != (key, shape):
            known = self._bases[place] = key, shape, orthonormal(self.normal(shape, key, *place))
        return known[2]

    @property
    def bytes(self) -> int:
        """Bytes of the bases that are kept."""
        return sum(int(array.nbytes) for _, _, array in self._bases.values())

    @cached_property
    def _bases(self) -> dict[tuple[str, ...], tuple[Key, tuple[int, int], Array]]:
        return {}

    def _at(self, law: str, shape: tuple[int, ...], address: tuple[Key | Tile | str, ...]) -> Array:
        for part in address:
            if isinstance(part, Tile) and part.start:
                return self.numbers(law, stream(*address), part.start * math.prod(shape[1:]), shape)
        return self.numbers(law, stream(*address), 0, shape)

    @abstractmethod
    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Array:
        """Numbers `first`, `first` + 1, … of a stream under a law, as a float32 array of `shape`."""


class KeysOf(Noise):
    """Noise that remembers the keys under which it was asked.

    Args:
        inner: makes the random numbers.

    Attributes:
        keys: so far.
    """

    def __init__(self, inner: Noise) -> None:
        self.inner = inner
        self.keys: set[Key] = set()

    def orthonormal(self, shape: tuple[int, int], key: Key, *place: str) -> Array:
        self.keys.add(key)
        return self.inner.orthonormal(shape, key, *place)

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Array:
        return self.inner.numbers(law, stream, first, shape)

    def _at(self, law: str, shape: tuple[int, ...], address: tuple[Key | Tile | str, ...]) -> Array:
        self.keys.update(part for part in address if isinstance(part, Key))
        return super()._at(law, shape, address)


class NoiseByBlock(Noise):
    """Noise made where the numbers are needed: on the device of the block that a tile in the address belongs to.

    Args:
        of: block → the noise of its device.
        usual: for addresses without a tile.
    """

    def __init__(self, of: Callable[[Block], Noise], usual: Noise) -> None:
        self._of, self._usual = of, usual

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Array:
        return self._usual.numbers(law, stream, first, shape)

    def _at(self, law: str, shape: tuple[int, ...], address: tuple[Key | Tile | str, ...]) -> Array:
        places = [part.block for part in address if isinstance(part, Tile)]
        return (self._of(places[0]) if places else self._usual)._at(law, shape, address)


def stream(*address: Key | Tile | str) -> Stream:
    """The stream of an address, by hashing it.

    >>> stream(Key(0, 0, 0), "w") == stream(Key(0, 0, 0), "w")
    True
    """
    words = [part if isinstance(part, str) else _word(part) for part in address]
    digest = blake2b("\x1f".join(words).encode(), digest_size=8, person=b"zoplat-noise-1").digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _word(part: Key | Tile) -> str:
    return f"{part.seed}:{part.step}:{part.draw}" if isinstance(part, Key) else part.block.name
