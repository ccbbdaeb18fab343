"""How the kernels of a GPU find, read, round and write weights; with the bits of `kernels.c`."""

# ruff: noqa: SIM108, SIM109
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl

from zoplat_devices.kernels import tables
from zoplat_devices.kernels.gpu_noise import share
from zoplat_devices.kernels.tables import DTYPES, FROM_FLOAT32

FLOAT32, BFLOAT16, FLOAT16 = (tl.constexpr(DTYPES[name]) for name in ("float32", "bfloat16", "float16"))
TO_BFLOAT16, TO_FLOAT16 = (tl.constexpr(FROM_FLOAT32[name]) for name in ("bfloat16", "float16"))
SUM, TURNED = tl.constexpr(tables.SUM), tl.constexpr(tables.TURNED)
TERM, PIECE = (tl.constexpr(record.itemsize // 8) for record in (tables.TERM, tables.JOB))


@triton.jit
def key(term, number):
    """One of the keys of a term's streams."""
    return tl.load(term.to(tl.pointer_type(tl.uint32)) + 2 + number)


@triton.jit
def coefficient(term):
    """The coefficient of a term."""
    return tl.load(term.to(tl.pointer_type(tl.float32)) + 10)


@triton.jit
def opened(pieces, owners, origin, dtype: tl.constexpr, is_aligned: tl.constexpr):
    """The piece of a program: source, target, first and last entry, number among the programs of the piece, line."""
    piece = pieces + tl.load(owners + tl.program_id(0)).to(tl.int64) * PIECE
    source_type = tl.float16 if dtype == FLOAT16 else tl.bfloat16 if dtype == BFLOAT16 else tl.float32
    target_type = (
        tl.float32
        if dtype == FLOAT32 or dtype == SUM or dtype == TURNED
        else tl.float16
        if dtype == FLOAT16 or dtype == TO_FLOAT16
        else tl.bfloat16
    )
    source = tl.load(piece).to(tl.pointer_type(source_type))
    target = (tl.load(piece + 1) + origin).to(tl.pointer_type(target_type))
    if is_aligned:
        source, target = tl.multiple_of(source, 16), tl.multiple_of(target, 16)
    fields = piece.to(tl.pointer_type(tl.int32))
    number = tl.program_id(0) - tl.load(fields + 9)
    return source, target, tl.load(piece + 2), tl.load(piece + 3), number, tl.load(fields + 8).to(tl.int64)


@triton.jit
def stochastic_bfloat(bits, k):
    """A float32 rounded stochastically with 16 random bits k, as in zoplat/space/rounding.py."""
    size = bits & 0x7FFFFFFF
    away = (k < (bits & 0xFFFF)) & (size < 0x7F7F0000)
    nan = (size > 0x7F800000).to(tl.uint32) << 6
    return (((bits >> 16) + away.to(tl.uint32)) | nan).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def stochastic_half(bits, k):
    """The same for float16; the result is a float32 that converts without rounding."""
    size = bits & 0x7FFFFFFF
    inside = tl.where(size < 0x477FE000, size, 0)
    exponent = inside & 0x7F800000
    gap = tl.where(exponent > 0x38800000, exponent, 0x38800000) - (10 << 23)
    count = inside.to(tl.float32, bitcast=True) * (0x7F000000 - gap).to(tl.float32, bitcast=True)
    steps = count.to(tl.int32).to(tl.float32)
    steps += tl.where(count - steps > share(k), 1.0, 0.0)
    rounded = (steps * gap.to(tl.float32, bitcast=True)).to(tl.uint32, bitcast=True)
    rounded = tl.where(size < 0x477FE000, rounded, tl.where(size < 0x7F800000, 0x477FE000, size))
    return (rounded | (bits & 0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def loaded(source, place, begin, end, dtype: tl.constexpr, is_whole: tl.constexpr):
    """Weights as they are stored; nothing where only the sum is asked for."""
    if dtype == SUM or dtype == TURNED:
        held = 0.0
    elif is_whole:  # no mask, so that loads are wide
        held = tl.load(source + place)
    else:
        held = tl.load(source + place, mask=(place >= begin) & (place < end))
    return held


@triton.jit
def rounded(total, k, dtype: tl.constexpr, is_stochastic: tl.constexpr):
    """A float32 as it is stored."""
    if dtype == FLOAT32 or dtype == SUM or dtype == TURNED:
        result = total
    elif dtype == BFLOAT16 or dtype == TO_BFLOAT16:
        if is_stochastic:
            result = stochastic_bfloat(total.to(tl.uint32, bitcast=True), k)
        else:
            result = total.to(tl.bfloat16)
    elif is_stochastic:
        result = stochastic_half(total.to(tl.uint32, bitcast=True), k).to(tl.float16)
    else:
        result = total.to(tl.float16)
    return result


@triton.jit
def added(held, factor, total, k, dtype: tl.constexpr, is_stochastic: tl.constexpr):
    """factor·held + total, as it is stored."""
    if dtype != SUM and dtype != TURNED:
        total = factor * held.to(tl.float32) + total
    return rounded(total, k, dtype, is_stochastic)


@triton.jit
def store(target, place, result, begin, end, is_whole: tl.constexpr):
    """Write one half."""
    if is_whole:
        tl.store(target + place, result)
    else:
        tl.store(target + place, result, mask=(place >= begin) & (place < end))


@triton.jit
def turned(line, entry, place):
    """Places, from `entry` on, of entries of an array whose rows and columns are exchanged."""
    length, rows = tl.load(line + 8), tl.load(line + 10)
    at = entry + place
    row = at // length
    return (at - row * length) * rows + row - entry


@triton.jit
def line_of(lines, index, stride):
    """A line of the table of sums: a word with the number of terms and the factor of the weights, then the terms."""
    return lines + index * (1 + stride * TERM)


@triton.jit
def factor_of(line):
    """The factor of the weights."""
    return tl.load(line.to(tl.pointer_type(tl.float32)) + 1)


@triton.jit
def count_of(line):
    """The number of terms."""
    return tl.load(line.to(tl.pointer_type(tl.int32)))
