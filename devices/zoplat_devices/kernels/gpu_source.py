"""Triton functions that are written here, from what was traced of laws and rules.

Values are named by register, `l` in the left and `r` in the right half of groups. Every operation rounds once, as in
`kernels.c`.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence
from hashlib import sha256
from types import ModuleType
from typing import Any

import numpy as np

from zoplat_devices.kernels.laws import LAWS
from zoplat_devices.kernels.traced import OPERATIONS, Program

FORMS = {
    "copy": "{x}",
    "add": "{x} + {y}",
    "subtract": "{x} - {y}",
    "multiply": "{x} * {y}",
    "divide": "tl.div_rn({x}, {y})",
    "root": "tl.sqrt_rn({x})",
    "absolute": "tl.abs({x})",
    "fraction": "{x} - tl.floor({x})",
    "greater": "tl.where({x} > {y}, 1.0, 0.0)",
    "greater or equal": "tl.where({x} >= {y}, 1.0, 0.0)",
    "maximum": "tl.where({x} < {y}, {y}, {x})",
    "minimum": "tl.where({x} > {y}, {y}, {x})",
}
"""Operation → its expression on float32 values."""
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


RULE = """
def rule(
    pieces, owners, lines, others, places, stride, width, kind: tl.constexpr, count: tl.constexpr,
    has_scales: tl.constexpr, other_kind: tl.constexpr, other_count: tl.constexpr, other_scales: tl.constexpr,
    dtype: tl.constexpr, is_stochastic: tl.constexpr, is_whole: tl.constexpr
):
    source, target, start, stop, number, index = opened(pieces, owners, 0, dtype, is_whole)
    line, other = line_of(lines, index, stride), line_of(others, index, width)
    factor = factor_of(line)
    place, row, part, bit = arranged(source, stride, dtype, is_whole)
    c, d, key0, key1, key2, key3 = begun(line, count)
    e, f, key4, key5, key6, key7 = begun(other, other_count)
    if is_stochastic:
        round0, round1 = rounding_keys(line)
{opened}
    first, last = groups_of(start, stop, number)
    for at in range(first, last, GROUPS):
        entry = at * GROUP
        group = (at + row).to(tl.uint64)
        begin, end = bounds(start, stop, entry)
        l0 = factor * loaded(source + entry, place, begin, end, dtype, is_whole).to(tl.float32)
        r0 = factor * loaded(source + entry, place + HALF, begin, end, dtype, is_whole).to(tl.float32)
{loaded}
        if count != 0:
            left, right = summed(
                {law}, kind, count, has_scales, line, c, d, key0, key1, key2, key3,
                entry, group, part, bit, place, begin, end
            )
            l0, r0 = l0 + left, r0 + right
        l1, r1 = summed(
            {law}, other_kind, other_count, other_scales, other, e, f, key4, key5, key6, key7,
            entry, group, part, bit, place, begin, end
        )
{steps}
        k, m = part, part
        if is_stochastic:
            k, m = halves(group, part, bit, round0, round1)
        store(target + entry, place, rounded(l0, k, dtype, is_stochastic), begin, end, is_whole)
        store(target + entry, place + HALF, rounded(r0, m, dtype, is_stochastic), begin, end, is_whole)
{stored}
"""


class Sources:
    """Functions of Triton that are made from text, each once.

    Args:
        programs: the module `gpu_kernels`, whose functions they call.
    """

    def __init__(self, programs: ModuleType) -> None:
        self._programs = programs
        self._made: dict[tuple[str, ...], Any] = {}

    def move(self, laws: Sequence[int]) -> Any:
        """The program `move` for terms that compute with some laws, by number."""
        return self._function("move", [*_laws(laws), MOVE], ["stride", "origin"]) if laws else self._programs.move

    def rule(self, program: Program, buffers: Sequence[bool], laws: Sequence[int]) -> Any:
        """A program that runs a traced rule, whose constants and addresses of buffers are read from `places`.

        Args:
            program: of the rule.
            buffers: for each buffer, whether it covers the blocks.
            laws: that terms compute with, by number.
        """
        form, registers = program.form(), [2 + k for k, is_there in enumerate(buffers) if is_there]
        constants = [k for k, (_, _, _, b, _) in enumerate(form) if b < 0]
        opened = [f"k{k} = tl.load(places.to(tl.pointer_type(tl.float32)) + {k})" for k in constants]
        opened.append(f"own = places + {words_of_constants(len(form))} + index * {len(buffers)}")
        for k in registers:
            opened.append(f"p{k} = tl.load(own + {k - 2}).to(tl.pointer_type(tl.float32))")
            opened += ["if is_whole:", f"    p{k} = tl.multiple_of(p{k}, 16)"]
        halves = (("l", "place"), ("r", "place + HALF"))
        bounds = "begin, end, is_whole"
        loaded = [
            f"{h}{k} = loaded(p{k} + entry, {at}, begin, end, FLOAT32, is_whole)" for k in registers for h, at in halves
        ]
        stored = [
            f"store(p{k} + entry, {at}, {h}{k}, {bounds})"
            for k in registers
            if k in program.written
            for h, at in halves
        ]
        text = RULE.format(
            opened=_indented(opened, 1),
            loaded=_indented(loaded, 2),
            steps=_indented(_lines((*step, f"k{k}") for k, step in enumerate(form)), 2),
            stored=_indented(stored, 2),
            law="law" if laws else "no_law",
        )
        return self._function("rule", [*_laws(laws), text], ["stride", "width"])

    def _function(self, name: str, parts: Sequence[str], do_not_specialize: Sequence[str]) -> Any:
        """The last of several functions that call each other, each given as text that begins with `def`."""
        if tuple(parts) not in self._made:
            space = {**vars(self._programs), "__name__": f"zoplat_devices.kernels.generated.{name}"}
            for part in parts[:-1]:
                self._define(part.strip() + "\n", space)
            self._define(parts[-1].strip() + "\n", space, do_not_specialize=list(do_not_specialize))
            self._made[tuple(parts)] = space[name]
        return self._made[tuple(parts)]

    def _define(self, text: str, space: dict[str, Any], **options: Any) -> None:
        """Define one function in a namespace; its text can be found by its place, as Triton asks for."""
        place = f"<zoplat {sha256(text.encode()).hexdigest()}>"
        linecache.cache[place] = len(text), None, text.splitlines(keepends=True), place
        exec(compile(text, place, "exec"), space)
        name = text[len("def ") : text.index("(")]
        space[name] = type(self._programs.move)(space[name], **options)  # compiled or interpreted, as the others are


def words_of_constants(steps: int) -> int:
    """Words that the constants of a rule's steps take, two in each."""
    return -(-steps // 2)


def _laws(numbers: Sequence[int]) -> list[str]:
    """Functions of some laws, and the one that calls the law of a term."""
    if not numbers:
        return []
    parts: list[str] = []
    lines: list[str] = []
    for number in numbers:
        steps = [(operation, to, a, b, r, _number(c)) for operation, to, a, b, c, r in LAWS[number].steps]
        parts.append(LAW.format(number=number, body=_indented(_lines(steps), 1)))
        lines += [f"{'elif' if lines else 'if'} number == {number}:"]
        lines += [f"    left, right = law_{number}(term, group, part, bit)"]
    if len(numbers) == 1:
        lines = [lines[1].strip()]
    else:
        lines[-2] = "else:"
    return [*parts, CHOICE.format(body=_indented(lines, 1))]


def _lines(steps: Iterable[tuple[int, int, int, int, int, str]]) -> list[str]:
    """Steps with the text of their constants, as lines of a function."""
    lines = []
    for operation, to, a, b, is_reversed, constant in steps:
        name = OPERATIONS[operation]
        if name == "draw":
            keys = f"key(term, {2 * a}), key(term, {2 * a + 1})"
            lines.append(f"l{to}, r{to} = drawn({b}, group, part, bit, {keys})")
            continue
        for half in "lr":
            x, y = f"{half}{a}", f"{half}{b}" if b >= 0 else constant
            if is_reversed:
                x, y = y, x
            lines.append(f"{half}{to} = {FORMS[name].format(x=x, y=y)}")
    return lines


def _indented(lines: Iterable[str], depth: int) -> str:
    return "\n".join("    " * depth + line for line in lines)


def _number(c: float) -> str:
    """A constant as float32, so that it is written exactly."""
    value = float(np.float32(c))
    return repr(value) if np.isfinite(value) else f'float("{value}")'
