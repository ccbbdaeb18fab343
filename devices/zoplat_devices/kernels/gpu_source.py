"""Triton functions that are written here, from what was traced of laws and rules.

Values are named by register, `l` in the left and `r` in the right half of groups. Every operation rounds once, as in
`kernels.c`.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from zoplat_devices.kernels.laws import LAWS
from zoplat_devices.kernels.traced import OPERATIONS

FORMS = {
    "copy": "{x}",
    "add": "{x} + {y}",
    "subtract": "{x} - {y}",
    "multiply": "{x} * {y}",
    "divide": "tl.div_rn({x}, {y})",
    "root": "tl.sqrt_rn({x})",
    "absolute": "tl.abs({x})",
    "greater": "tl.where({x} > {y}, 1.0, 0.0)",
    "greater or equal": "tl.where({x} >= {y}, 1.0, 0.0)",
    "maximum": "tl.where({x} < {y}, {y}, {x})",
    "minimum": "tl.where({x} > {y}, {y}, {x})",
}
"""Operation → its expression on float32 values."""
Step = tuple[int, int, int, int, float, int]

LAW = """
def law_{number}(term, group, part, bit):
{body}
    return l0, r0
"""
CHOICE = """
def law(term, group, part, bit):
    number = tl.load(term.to(tl.pointer_type(tl.int32)) + 1)
{body}
    return left, right
"""
MOVE = """
def move(
    pieces, owners, lines, origin: tl.int64, stride, kind: tl.constexpr, count: tl.constexpr,
    has_scales: tl.constexpr, dtype: tl.constexpr, is_stochastic: tl.constexpr, is_whole: tl.constexpr
):
    move_groups(
        pieces, owners, lines, origin, stride, law, kind, count, has_scales, dtype, is_stochastic, is_whole
    )
"""


class Sources:
    """Functions of Triton that are made from text, each once.

    Args:
        programs: the module `gpu_kernels`, whose functions they call.
    """

    def __init__(self, programs: ModuleType) -> None:
        self._programs = programs
        self._made: dict[str, Any] = {}

    def move(self, laws: Sequence[int]) -> Any:
        """The program `move` for terms that compute with some laws, by number."""
        if not laws:
            return self._programs.move
        parts = [LAW.format(number=number, body=_body(LAWS[number].steps)) for number in laws]
        options = [f"number == {number}" for number in laws]
        calls = [f"        left, right = law_{number}(term, group, part, bit)" for number in laws]
        lines = [f"    if {options[0]}:", calls[0]]
        for option, call in zip(options[1:], calls[1:], strict=True):
            lines += [f"    elif {option}:", call]
        if len(laws) > 1:
            lines[-2] = "    else:"
        else:
            lines = [calls[0].removeprefix("    ")]
        parts.append(CHOICE.format(body="\n".join(lines)))
        return self.function("move", [*parts, MOVE], ["stride", "origin"])

    def function(self, name: str, parts: Iterable[str], do_not_specialize: Sequence[str] = ()) -> Any:
        """The last of several functions that call each other, each given as text that begins with `def`."""
        text = "\n".join(parts)
        if text not in self._made:
            space = {**vars(self._programs), "__name__": f"zoplat_devices.kernels.generated.{name}"}
            for number, part in enumerate(text.split("\n\ndef ")):
                self._define(f"<zoplat {name} {len(self._made)}.{number}>", part, space, do_not_specialize)
            self._made[text] = space[name]
        return self._made[text]

    def _define(self, place: str, part: str, space: dict[str, Any], do_not_specialize: Sequence[str]) -> None:
        """Define one function in a namespace; its text can be found by its place, as Triton asks for."""
        text = "def " + part.strip().removeprefix("def ") + "\n"
        linecache.cache[place] = len(text), None, text.splitlines(keepends=True), place
        exec(compile(text, place, "exec"), space)
        name = text[4 : text.index("(")]
        some = [given for given in do_not_specialize if name in ("move", "rule")]
        jit = type(self._programs.move)  # compiled, or interpreted as the other programs are
        space[name] = jit(space[name], do_not_specialize=some) if some else jit(space[name])


def _body(steps: Iterable[Step], halves: str = "lr") -> str:
    """The steps as lines of a function."""
    lines = []
    for operation, to, a, b, c, is_reversed in steps:
        name = OPERATIONS[operation]
        if name == "draw":
            keys = f"key(term, {2 * a}), key(term, {2 * a + 1})"
            lines.append(f"l{to}, r{to} = drawn({b}, group, part, bit, {keys})")
            continue
        for half in halves:
            x, y = f"{half}{a}", f"{half}{b}" if b >= 0 else _number(c)
            if is_reversed:
                x, y = y, x
            lines.append(f"{half}{to} = {FORMS[name].format(x=x, y=y)}")
    return "\n".join(f"    {line}" for line in lines)


def _number(c: float) -> str:
    """A constant as float32, so that it is written exactly."""
    value = float(np.float32(c))
    return repr(value) if np.isfinite(value) else f'float("{value}")'
