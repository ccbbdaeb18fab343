"""Trace a law: run its `fill` once on proxies, to learn which numbers it draws and what it computes with them.

A law can be traced if it draws at most `DRAWS` arrays of the tile's shape and computes every entry alike from its
numbers and constants, with + − · /, % 1, square roots, absolute values and `clip`. Any other law is filled on arrays,
tile by tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from zoplat.core.blocks import Tile
from zoplat.core.noise import Key, Noise, Stream
from zoplat.core.sampler import Sampler
from zoplat_devices.kernels.tables import DRAWS, TERMS
from zoplat_devices.kernels.traced import OPERATIONS, REGISTERS, Program, Traced, Untraceable

DRAW, COPY = OPERATIONS.index("draw"), OPERATIONS.index("copy")
KINDS = {number: kind for kind, number in TERMS.items()}
Steps = tuple[tuple[int, int, int, int, float, int], ...]


class Law(NamedTuple):
    """What a law computes with its numbers.

    Attributes:
        number: of the law, counted from 0 in this process.
        steps: as in `Program`; the result is in register 0.
        table: the steps as a table of `STEP`, which terms point to.
    """

    number: int
    steps: Steps
    table: np.ndarray


class Fill(NamedTuple):
    """What filling a block with a law takes.

    Attributes:
        kind: the numbers that are written as they are drawn, of `TERMS`, or "computed".
        streams: of the numbers.
        law: what is computed with them, where it is.
    """

    kind: str
    streams: list[Stream]
    law: Law | None


LAWS: list[Law] = []
"""All laws that were traced in this process, by number."""
_numbers: dict[Steps, int] = {}


def traced_fill(sampler: Sampler, tile: Tile, key: Key) -> Fill | None:
    """What filling a tile that is a whole block takes; None where the law can't be traced."""
    program = LawProgram(free=list(range(REGISTERS - 1, 0, -1)))
    requests: Any = _Requests(program, tile.shape)
    out: Any = Traced(program, 0, is_array=True)
    try:
        sampler.fill(out, tile, key, requests)
    except (Untraceable, TypeError, AttributeError):
        return None
    return _fill(tuple(program.steps), requests.streams)


def traced_factors(sampler: Sampler, tile: Tile, key: Key) -> list[tuple[tuple[int, int], Fill]] | None:
    """Shapes of U and V on a tile that is a whole block, and what filling each takes.

    None where the law has no factors there, or does more than to compute every entry of an array from its own numbers.
    """
    requests: Any = _Arrays()
    try:
        found = sampler.factors(tile, key, requests)
    except (Untraceable, TypeError, AttributeError):
        return None
    if found is None or found[0] is found[1]:
        return None
    made: list[tuple[tuple[int, int], Fill]] = []
    for array in found:
        if not isinstance(array, _Array):
            return None
        array.program.step("copy", array, to=Traced(array.program, 0, is_array=True))
        fill = _fill(tuple(array.program.steps), [array.stream])
        if fill is None or len(array.shape) != 2:
            return None
        made.append((array.shape, fill))
    return made


def _fill(steps: Steps, streams: list[Stream]) -> Fill | None:
    """What some steps take that write register 0; None where they do not write it, or read it before."""
    if [(step[0], step[1]) for step in steps[1:]] == [(COPY, 0)] and steps[0][0] == DRAW:
        return Fill(KINDS[steps[0][3]], streams, None)
    return Fill("computed", streams, _law(steps)) if _writes_all(steps) else None


def _law(steps: Steps) -> Law:
    """The law of some steps; the same one for the same steps."""
    if steps not in _numbers:
        _numbers[steps] = len(LAWS)
        LAWS.append(Law(len(LAWS), steps, Program(list(steps)).table()))
    return LAWS[_numbers[steps]]


def _writes_all(steps: Steps) -> bool:
    """Whether the result is written before it is read, and at all."""
    for operation, to, a, b, _, _ in steps:
        if operation != DRAW and 0 in (a, b):
            return False
        if to == 0:
            return True
    return False


class LawProgram(Program):
    """The operations of a law, where a constant is a number of Python and results are float32.

    A comparison gives truth values, with which arrays compute in other types.
    """

    def step(self, name: str, a: Traced, b: Any = None, to: Traced | None = None, is_reversed: bool = False) -> Traced:
        is_foreign = isinstance(b, Traced) and b.program is not self
        if name.startswith("greater") or is_foreign or not (b is None or type(b) in (int, float, Traced, _Array)):
            raise Untraceable(f"{name} with an operand of type {type(b).__name__}")
        return super().step(name, a, b, to, is_reversed)


class _Array(Traced):
    """Proxy of an array of numbers of one stream.

    Attributes:
        stream: of its numbers.
        shape: of the array.
    """

    __slots__ = ("shape", "stream")

    def __init__(self, program: Program, register: int, stream: Stream, shape: tuple[int, int]) -> None:
        super().__init__(program, register, is_array=False)
        self.stream, self.shape = stream, shape


class _Arrays(Noise):
    """Noise that returns a proxy of every array that is drawn, with a program of its own."""

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        if first:
            raise Untraceable("numbers of some rows")
        program = LawProgram(free=list(range(REGISTERS - 1, 1, -1)))
        program.steps.append((DRAW, 1, 0, TERMS[law], 0.0, 0))
        return _Array(program, 1, stream, tuple(shape))  # type: ignore[arg-type]


class _Requests(Noise):
    """Noise that records what is drawn and returns proxies of the numbers.

    Attributes:
        streams: that were drawn from, in order.
    """

    def __init__(self, program: Program, shape: tuple[int, ...]) -> None:
        self.streams: list[Stream] = []
        self._program, self._shape = program, shape

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        if (first, tuple(shape)) != (0, tuple(self._shape)) or len(self.streams) == DRAWS:
            raise Untraceable("numbers that are not one for each entry, or too many draws")
        self.streams.append(stream)
        return self._program.draw(len(self.streams) - 1, TERMS[law])
