"""Trace a law: run its `fill` once on proxies, to learn which numbers it draws and what it computes with them.

A law can be traced if it draws at most `DRAWS` arrays of the tile's shape and computes every entry alike from its
numbers and constants, with + − · / square roots, absolute values and `clip`. Any other law is filled on arrays, tile by
tile.
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
    steps = tuple(program.steps)
    if [(step[0], step[1]) for step in steps[1:]] == [(COPY, 0)] and steps[0][0] == DRAW:
        kinds = {number: kind for kind, number in TERMS.items()}
        return Fill(kinds[steps[0][3]], requests.streams, None)
    return Fill("computed", requests.streams, _law(steps)) if _writes_all(steps) else None


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
        if name.startswith("greater") or not (b is None or type(b) in (int, float, Traced)):
            raise Untraceable(f"{name} with an operand of type {type(b).__name__}")
        return super().step(name, a, b, to, is_reversed)


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
