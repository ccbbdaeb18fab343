"""A rule's arithmetic as a list of operations: the rule is run once on stand-ins that write down what it does.

A rule that treats every entry alike, with nothing but +, −, ·, /, roots, sizes, comparisons and `clip`, can then be
done where the entries are in registers. One that does anything else is not traced, and runs on arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

REGISTERS = 24
"""As many as `kernels.c` has."""

OPERATIONS = ("copy", "add", "subtract", "multiply", "divide", "root", "size", "above", "at least", "least", "most")
"""The number of each is its place. The second operand is a register or a number, and `reversed` swaps the two."""

STEP = np.dtype(
    [("operation", np.int32), ("to", np.int32), ("a", np.int32), ("b", np.int32), ("c", np.float32), ("turn", np.int32)]
)
"""`Step` of kernels.c."""


class Untraceable(Exception):
    """The rule does something that is no operation."""


@dataclass
class Program:
    """What a rule does.

    Attributes:
        steps: (operation, to, a, b or −1, number, whether b comes first).
        written: registers of arrays that it changes.
        free: registers that hold nothing.
    """

    steps: list[tuple[int, int, int, int, float, int]] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    free: list[int] = field(default_factory=list)

    def table(self) -> np.ndarray:
        """The steps, of `STEP`."""
        return np.array(self.steps, STEP)

    def step(self, name: str, a: Traced, b: Any = None, to: Traced | None = None, turn: bool = False) -> Traced:
        """One more operation, into a register of its own unless it is told which."""
        if to is None:
            if not self.free:
                raise Untraceable("more registers than there are")
            to = Traced(self, self.free.pop(), is_array=False)
        if isinstance(b, Traced):
            operand, number = b.register, 0.0
        elif b is None or isinstance(b, float | int):
            operand, number = -1, float(b or 0.0)
        else:
            raise Untraceable(f"an operand of type {type(b).__name__}")
        self.steps.append((OPERATIONS.index(name), to.register, a.register, operand, number, int(turn)))
        if to.is_array:
            self.written.add(to.register)
        return to


class Traced:
    """Stands for an array, or for what was computed from some.

    Attributes:
        register: where its entries are.
        is_array: whether it is one of the rule's arrays, whose changes last.
    """

    __slots__ = ("is_array", "program", "register")
    __array_ufunc__ = None  # numpy leaves operators to us
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
        return self.program.step("subtract", self, other, turn=True)

    def __mul__(self, other: Any) -> Traced:
        return self.program.step("multiply", self, other)

    def __truediv__(self, other: Any) -> Traced:
        return self.program.step("divide", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self.program.step("divide", self, other, turn=True)

    def __neg__(self) -> Traced:
        return self.program.step("multiply", self, -1.0)

    def __abs__(self) -> Traced:
        return self.program.step("size", self)

    def __pow__(self, power: Any) -> Traced:
        if power == 0.5:
            return self.program.step("root", self)
        if power == 2:
            return self.program.step("multiply", self, self)
        raise Untraceable(f"a power of {power}")

    def __gt__(self, other: Any) -> Traced:
        return self.program.step("above", self, other)

    def __ge__(self, other: Any) -> Traced:
        return self.program.step("at least", self, other)

    def __lt__(self, other: Any) -> Traced:
        return self.program.step("above", self, other, turn=True)

    def __le__(self, other: Any) -> Traced:
        return self.program.step("at least", self, other, turn=True)

    def clip(self, low: float, high: float) -> Traced:
        """Entries below the one and above the other are set to it."""
        return self.program.step("most", self.program.step("least", self, low), high)

    def __iadd__(self, other: Any) -> Traced:
        return self.program.step("add", self, other, to=self)

    def __isub__(self, other: Any) -> Traced:
        return self.program.step("subtract", self, other, to=self)

    def __imul__(self, other: Any) -> Traced:
        return self.program.step("multiply", self, other, to=self)

    def __itruediv__(self, other: Any) -> Traced:
        return self.program.step("divide", self, other, to=self)

    def __setitem__(self, index: Any, value: Any) -> None:
        if index not in (slice(None), Ellipsis) or not isinstance(value, Traced):
            raise Untraceable("a part is written, or no array")
        self.program.step("copy", value, to=self)

    def __bool__(self) -> bool:
        raise Untraceable("a decision that hangs on entries")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise Untraceable("an array is made of entries")

    def __eq__(self, other: object) -> Any:
        raise Untraceable("entries are told to be equal")

    __radd__, __rmul__, __ne__ = __add__, __mul__, __eq__


def traced(kernel: Callable[..., None], arrays: int, absent: frozenset[int] = frozenset()) -> Program | None:
    """What a rule does to so many arrays, those absent being None; None where it can't be told."""
    program = Program(free=list(range(REGISTERS - 1, arrays - 1, -1)))
    given = [None if place in absent else Traced(program, place, is_array=True) for place in range(arrays)]
    try:
        kernel(*given)
    except (Untraceable, TypeError, AttributeError):
        return None
    return program
