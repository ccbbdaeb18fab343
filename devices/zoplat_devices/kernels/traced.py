"""Trace a rule: run its kernel once on proxies that record the operations, so that fused kernels can do them.

A rule can be traced if it treats every entry alike and uses only +, −, ·, /, % 1, square roots, absolute values,
comparisons and `clip`. Its operations are then done on entries in registers. Any other rule runs on arrays, tile by
tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

REGISTERS = 24
"""Number of registers in `kernels.c`."""

OPERATIONS = (
    "copy",
    "add",
    "subtract",
    "multiply",
    "divide",
    "root",
    "absolute",
    "fraction",
    "greater",
    "greater or equal",
    "maximum",
    "minimum",
    "draw",
)
"""Operations of kernels.c in the order of their numbers. The second operand is a register or a constant; of `draw`, the
first one is the number of a stream and the second one the kind of its numbers."""

STEP = np.dtype(
    [
        ("operation", np.int32),
        ("to", np.int32),
        ("a", np.int32),
        ("b", np.int32),
        ("c", np.float32),
        ("is_reversed", np.int32),
    ]
)
"""`Step` of kernels.c: register `to` ← a operation b."""


class Untraceable(Exception):
    """The rule does something that is not in `OPERATIONS`."""


@dataclass
class Program:
    """The operations of a rule.

    Attributes:
        steps: (operation, to, a, b, constant, whether the operands are reversed); b is −1 for a constant operand.
        written: registers of the arrays that the rule changes.
        free: registers that hold no value.
    """

    steps: list[tuple[int, int, int, int, float, int]] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    free: list[int] = field(default_factory=list)

    def table(self) -> np.ndarray:
        """The steps as a table of `STEP`."""
        return np.array(self.steps, STEP)

    def form(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """The steps without their constants, which differ from step to step of a run."""
        return tuple((operation, to, a, b, is_reversed) for operation, to, a, b, _, is_reversed in self.steps)

    def step(self, name: str, a: Traced, b: Any = None, to: Traced | None = None, is_reversed: bool = False) -> Traced:
        """Append an operation and return the proxy of its result.

        Args:
            name: one of `OPERATIONS`.
            a: first operand.
            b: second operand, a proxy or a number; None for operations of one operand.
            to: the proxy to overwrite; a fresh register when None.
            is_reversed: whether b comes first.

        Raises:
            Untraceable: no register is free, or b is something else.
        """
        if to is None:
            to = self._fresh()
        if isinstance(b, Traced):
            operand, constant = b.register, 0.0
        elif b is None or isinstance(b, float | int):
            operand, constant = -1, float(b or 0.0)
        else:
            raise Untraceable(f"an operand of type {type(b).__name__}")
        self.steps.append((OPERATIONS.index(name), to.register, a.register, operand, constant, int(is_reversed)))
        if to.is_array:
            self.written.add(to.register)
        return to

    def draw(self, stream: int, kind: int) -> Traced:
        """Append a draw of numbers, of a kind of `TERMS`, and return their proxy."""
        to = self._fresh()
        self.steps.append((OPERATIONS.index("draw"), to.register, stream, kind, 0.0, 0))
        return to

    def _fresh(self) -> Traced:
        """A proxy in a free register."""
        if not self.free:
            raise Untraceable("no register is free")
        return Traced(self, self.free.pop(), is_array=False)


class Traced:
    """Proxy of an array, or of an intermediate result.

    Attributes:
        program: records what is done to it.
        register: holds its entries.
        is_array: whether it is one of the rule's arrays, which are written back.
    """

    __slots__ = ("is_array", "program", "register")
    __array_ufunc__ = None  # numpy defers to the operators below
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, program: Program, register: int, is_array: bool) -> None:
        self.program, self.register, self.is_array = program, register, is_array

    def __del__(self) -> None:
        if not self.is_array:
            self.program.free.append(self.register)

    def __add__(self, other: Any) -> Traced:
        return self.program.step("add", self, other)

    def __sub__(self, other: Any) -> Traced:
        return self.program.step("subtract", self, other)

    def __rsub__(self, other: Any) -> Traced:
        return self.program.step("subtract", self, other, is_reversed=True)

    def __mul__(self, other: Any) -> Traced:
        return self.program.step("multiply", self, other)

    def __truediv__(self, other: Any) -> Traced:
        return self.program.step("divide", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self.program.step("divide", self, other, is_reversed=True)

    def __neg__(self) -> Traced:
        return self.program.step("multiply", self, -1.0)

    def __abs__(self) -> Traced:
        return self.program.step("absolute", self)

    def __pow__(self, power: Any) -> Traced:
        if power == 0.5:
            return self.program.step("root", self)
        if power == 2:
            return self.program.step("multiply", self, self)
        raise Untraceable(f"a power of {power}")

    def __mod__(self, other: Any) -> Traced:
        if other != 1:
            raise Untraceable(f"a remainder of a division by {other}")
        return self.program.step("fraction", self)

    def __gt__(self, other: Any) -> Traced:
        return self.program.step("greater", self, other)

    def __ge__(self, other: Any) -> Traced:
        return self.program.step("greater or equal", self, other)

    def __lt__(self, other: Any) -> Traced:
        return self.program.step("greater", self, other, is_reversed=True)

    def __le__(self, other: Any) -> Traced:
        return self.program.step("greater or equal", self, other, is_reversed=True)

    def clip(self, low: float, high: float) -> Traced:
        """Entries limited to [low, high]."""
        return self.program.step("minimum", self.program.step("maximum", self, low), high)

    def __iadd__(self, other: Any) -> Traced:
        return self.program.step("add", self, other, to=self)

    def __isub__(self, other: Any) -> Traced:
        return self.program.step("subtract", self, other, to=self)

    def __imul__(self, other: Any) -> Traced:
        return self.program.step("multiply", self, other, to=self)

    def __itruediv__(self, other: Any) -> Traced:
        return self.program.step("divide", self, other, to=self)

    def __getitem__(self, index: Any) -> Traced:
        if index not in (slice(None), Ellipsis):
            raise Untraceable("a slice")
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        if index not in (slice(None), Ellipsis) or not isinstance(value, Traced):
            raise Untraceable("an assignment to a slice, or of something that is not a proxy")
        if value is not self:
            self.program.step("copy", value, to=self)

    def __bool__(self) -> bool:
        raise Untraceable("a branch on values of entries")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise Untraceable("a conversion to a numpy array")

    def __eq__(self, other: object) -> Any:
        raise Untraceable("a comparison for equality")

    __radd__, __rmul__, __ne__ = __add__, __mul__, __eq__


def traced(kernel: Callable[..., None], arrays: int, absent: frozenset[int] = frozenset()) -> Program | None:
    """The program of a rule; None where it can't be traced.

    Args:
        kernel: of the rule.
        arrays: how many it takes.
        absent: positions of the arrays that are None.
    """
    program = Program(free=list(range(REGISTERS - 1, arrays - 1, -1)))
    proxies = [None if i in absent else Traced(program, i, is_array=True) for i in range(arrays)]
    try:
        kernel(*proxies)
    except (Untraceable, TypeError, AttributeError):
        return None
    return program
