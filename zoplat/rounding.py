"""How a float32 result becomes a 16-bit weight where nearest is not good enough: one of its two neighbours, by chance.

A result between two neighbouring numbers of the type becomes the one nearer to zero, or the other where u < f; f is
the share of the gap that lies between the former and the result, u uniform on (0, 1). So the expected value is the
result itself. What is beyond the largest finite number becomes that number; infinities and NaN stay. Written in
operators that numpy arrays and torch tensors share; `kernels.c` makes the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    Array: TypeAlias = Any

Rounding: TypeAlias = Literal["nearest", "stochastic", "master"]

NARROW = ("bfloat16", "float16")
"""The types that a float32 result is rounded to."""

SIZE, SIGN, EXPONENT = 0x7FFFFFFF, -0x80000000, 0x7F800000  # bits of a float32
LARGEST = {"bfloat16": 0x7F7F0000, "float16": 0x477FE000}  # finite number of the type, as bits of a float32


def round_by_chance(theta: Array, u: Array, dtype: str, integer: Any) -> None:
    """Replace every entry of `theta` by one of the two numbers of a type that are next to it.

    Args:
        theta: contiguous float32, changed in place; then converts to the type without rounding.
        u: of the same shape, odd multiples of 2⁻¹⁷ between 0 and 1.
        dtype: one of `NARROW`.
        integer: the runtime's own name for int32.
    """
    (_to_bfloat16 if dtype == "bfloat16" else _to_float16)(theta, u, integer)


def _to_bfloat16(theta: Array, u: Array, integer: Any) -> None:
    """The upper half of a float32 is the neighbour nearer to zero, the lower half is f."""
    bits = theta.view(integer)
    rest = bits & 0xFFFF
    away = (rest * 2.0**-16 > u) & ((bits & SIZE) < LARGEST["bfloat16"])
    bits -= rest
    bits += away * 0x10000


def _to_float16(theta: Array, u: Array, integer: Any) -> None:
    """Counted in gaps from zero; below 2⁻¹⁴ all gaps are 2⁻²⁴."""
    bits = theta.view(integer)
    size, sign = bits & SIZE, bits & SIGN
    inside = size < LARGEST["float16"]
    beyond = (size < EXPONENT) ^ inside
    size *= inside
    gap = (size & EXPONENT).clip(min=(127 - 14) << 23) - (10 << 23)
    steps = size.view(theta.dtype) * ((254 << 23) - gap).view(theta.dtype)
    rest = steps % 1
    steps -= rest
    steps += rest > u
    steps *= gap.view(theta.dtype)
    rounded = steps.view(integer) | sign
    bits[inside] = rounded[inside]
    bits[beyond] = sign[beyond] | LARGEST["float16"]
