"""Moves of weights in the registers of a GPU: draw, scale and add as `kernels.c` does, with the same bits.

Every program takes some tiles of one piece of an array, found through a table that has the number of the piece for each
program. To be launched without fusion, as in `gpu_noise.py`, whose laws and layout are used here.
"""

# ruff: noqa: SIM109
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl

from zoplat_devices.kernels import gpu_tables
from zoplat_devices.kernels.gpu_factors import move_factors
from zoplat_devices.kernels.gpu_noise import COARSE, GROUP, HALF, LINE, NORMAL, SIGN, UNIFORM, drawn, halves, numbers
from zoplat_devices.kernels.gpu_weights import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    TERM,
    TURNED,
    added,
    coefficient,
    count_of,
    factor_of,
    key,
    line_of,
    loaded,
    opened,
    rounded,
    store,
    turned,
)
from zoplat_devices.kernels.tables import TERMS

__all__ = ["FLOAT32", "move", "move_factors", "numbers", "rounded"]
"""What is launched, and what the programs of `gpu_source.py` use as well."""

LOW_RANK, VALUES, COMPUTED = (tl.constexpr(TERMS[kind]) for kind in ("low-rank", "values", "computed"))
MIXED, MANY = tl.constexpr(gpu_tables.MIXED), tl.constexpr(gpu_tables.MANY)
GROUPS = tl.constexpr(gpu_tables.TILE // gpu_tables.GROUP)  # in a tile
LINES = tl.constexpr(gpu_tables.TILE // 64)  # in each half of a tile
TILE, TILES = tl.constexpr(gpu_tables.TILE), tl.constexpr(gpu_tables.TILES)


@triton.jit
def outer(term, entry, place, inside):
    """Entries of U V from some entry on, summed over the rank in order."""
    fields = term.to(tl.pointer_type(tl.int32))
    rank, columns = tl.load(fields + 1), tl.load(fields + 11)
    u = tl.load(term + 6).to(tl.pointer_type(tl.float32))
    v = tl.load(term + 7).to(tl.pointer_type(tl.float32))
    row = entry // columns
    at = place + (entry - row * columns).to(tl.int32)
    down, across = (at // columns) * rank, at % columns
    u += row * rank
    z = tl.load(u + down, mask=inside, other=0.0) * tl.load(v + across, mask=inside, other=0.0)
    for _ in range(1, rank):
        u += 1
        v += columns
        z = z + tl.load(u + down, mask=inside, other=0.0) * tl.load(v + across, mask=inside, other=0.0)
    return z


@triton.jit
def values(term, entry, place, inside):
    """Entries that are read from memory."""
    z = tl.load(term + 6).to(tl.pointer_type(tl.float32)) + entry
    return tl.load(z + place, mask=inside, other=0.0)


@triton.jit
def no_law(term, group, part, bit):
    """In place of the law of terms that are `COMPUTED`, where there are none."""
    return drawn(COARSE, group, part, bit, key(term, 0), key(term, 1))


@triton.jit
def entries_of(kind: tl.constexpr, law: tl.constexpr, term, key0, key1, entry, group, part, bit, place, begin, end):
    """The vector of a term whose kind is known at compile time, on some groups: left and right halves."""
    if kind == LOW_RANK or kind == VALUES:
        other = place + HALF
        in_left, in_right = (place >= begin) & (place < end), (other >= begin) & (other < end)
        if kind == LOW_RANK:
            left, right = outer(term, entry, place, in_left), outer(term, entry, other, in_right)
        else:
            left, right = values(term, entry, place, in_left), values(term, entry, other, in_right)
    elif kind == COMPUTED:
        left, right = law(term, group, part, bit)
    else:
        left, right = drawn(kind, group, part, bit, key0, key1)
    return left, right


@triton.jit
def scaled(z, term, entry, place, begin, end):
    """A vector times its scale s or 1/√s, if it has one; rounded before it is multiplied by the coefficient."""
    scale = tl.load(term + 8)
    if scale != 0:
        inside = (place >= begin) & (place < end)
        s = tl.load(scale.to(tl.pointer_type(tl.float32)) + entry + place, mask=inside, other=1.0)
        z = z * tl.where(tl.load(term + 9) != 0, tl.div_rn(1.0, tl.sqrt_rn(s)), s)
    return z


@triton.jit
def entries(
    kind: tl.constexpr,
    law: tl.constexpr,
    has_scales: tl.constexpr,
    term,
    key0,
    key1,
    entry,
    group,
    part,
    bit,
    place,
    begin,
    end,
):
    """The same with its scale, where kinds may also be `MIXED`, which takes twice the registers."""
    if kind != MIXED:
        left, right = entries_of(kind, law, term, key0, key1, entry, group, part, bit, place, begin, end)
    else:
        found = tl.load(term.to(tl.pointer_type(tl.int32)))
        if found == NORMAL:
            left, right = entries_of(NORMAL, law, term, key0, key1, entry, group, part, bit, place, begin, end)
        elif found == SIGN:
            left, right = entries_of(SIGN, law, term, key0, key1, entry, group, part, bit, place, begin, end)
        elif found == UNIFORM:
            left, right = entries_of(UNIFORM, law, term, key0, key1, entry, group, part, bit, place, begin, end)
        elif found == COARSE:
            left, right = entries_of(COARSE, law, term, key0, key1, entry, group, part, bit, place, begin, end)
        elif found == LOW_RANK:
            left, right = entries_of(LOW_RANK, law, term, key0, key1, entry, group, part, bit, place, begin, end)
        elif found == COMPUTED:
            left, right = entries_of(COMPUTED, law, term, key0, key1, entry, group, part, bit, place, begin, end)
        else:
            left, right = entries_of(VALUES, law, term, key0, key1, entry, group, part, bit, place, begin, end)
    if has_scales:
        left = scaled(left, term, entry, place, begin, end)
        right = scaled(right, term, entry, place + HALF, begin, end)
    return left, right


@triton.jit
def begun(line, count: tl.constexpr):
    """What the first two terms of a line need in each turn of a loop: coefficients and keys; 0 where terms are more."""
    one, two = line + 1, line + 1 + TERM
    c, d, key0, key1, key2, key3 = 0.0, 0.0, 0, 0, 0, 0
    if count == 1 or count == 2:
        c, key0, key1 = coefficient(one), key(one, 0), key(one, 1)
    if count == 2:
        d, key2, key3 = coefficient(two), key(two, 0), key(two, 1)
    return c, d, key0, key1, key2, key3


@triton.jit
def summed(
    law: tl.constexpr,
    kind: tl.constexpr,
    count: tl.constexpr,
    has_scales: tl.constexpr,
    line,
    c,
    d,
    key0,
    key1,
    key2,
    key3,
    entry,
    group,
    part,
    bit,
    place,
    begin,
    end,
):
    """The sum of the terms of a line, in order, on some groups: left and right halves."""
    one, two = line + 1, line + 1 + TERM
    if count == 0:
        left = tl.full((LINES, LINE), 0.0, tl.float32)
        right = left
    elif count == MANY:
        left, right = entries(
            kind, law, has_scales, one, key(one, 0), key(one, 1), entry, group, part, bit, place, begin, end
        )
        left, right = coefficient(one) * left, coefficient(one) * right
        for k in range(1, count_of(line)):
            term = one + k * TERM
            y, z = entries(
                kind, law, has_scales, term, key(term, 0), key(term, 1), entry, group, part, bit, place, begin, end
            )
            left, right = left + coefficient(term) * y, right + coefficient(term) * z
    else:
        left, right = entries(kind, law, has_scales, one, key0, key1, entry, group, part, bit, place, begin, end)
        left, right = c * left, c * right
        if count == 2:
            y, z = entries(kind, law, has_scales, two, key2, key3, entry, group, part, bit, place, begin, end)
            left, right = left + d * y, right + d * z
    return left, right


@triton.jit
def arranged(source, stride, dtype: tl.constexpr, is_whole: tl.constexpr):
    """Places of the entries of the left half of a tile, and for laws the group, part and bit of each.

    Triton computes in the layout in which tensors begin, and what begins with a load has that of the load. So bits are
    loaded, with a mask that is never true, in the layout in which weights will be: nothing is moved between threads.
    """
    rows, bit = tl.arange(0, LINES)[:, None], tl.arange(0, LINE)[None, :]
    group, part = rows // (HALF // LINE), rows % (HALF // LINE)
    place = group * GROUP + part * LINE + bit
    bit = tl.broadcast_to(bit, (LINES, LINE)).to(tl.uint32)
    if is_whole:
        size: tl.constexpr = tl.uint16 if dtype == BFLOAT16 or dtype == FLOAT16 else tl.uint32
        address = source.to(tl.pointer_type(size), bitcast=True) + place
        bit = tl.load(address, mask=stride < 0, other=bit.to(size)).to(tl.uint32)
    return place, group, part.to(tl.uint32), bit


@triton.jit
def groups_of(start, stop, number):
    """The first group of a program, and the one after its last."""
    first = start // GROUP + number * (TILES * GROUPS)
    return first, tl.minimum(first + TILES * GROUPS, (stop + GROUP - 1) // GROUP)


@triton.jit
def bounds(start, stop, entry):
    """Places in a tile where its piece begins and ends."""
    return tl.maximum(start - entry, 0).to(tl.int32), tl.minimum(stop - entry, TILE).to(tl.int32)


@triton.jit
def rounding_keys(line):
    """Keys of the stream for stochastic rounding, which the term after the last one in use has."""
    term = line + 1 + count_of(line) * TERM
    return key(term, 0), key(term, 1)


@triton.jit
def move_groups(
    pieces,
    owners,
    lines,
    origin,
    stride,
    law: tl.constexpr,
    kind: tl.constexpr,
    count: tl.constexpr,
    has_scales: tl.constexpr,
    dtype: tl.constexpr,
    is_stochastic: tl.constexpr,
    is_whole: tl.constexpr,
):
    """Some tiles of a piece: target ← factor·source + the sum of its terms, all of one kind or `MIXED`."""
    source, target, start, stop, number, index = opened(pieces, owners, origin, dtype, is_whole)
    line = line_of(lines, index, stride)
    factor = factor_of(line)
    place, row, part, bit = arranged(source, stride, dtype, is_whole)
    c, d, key0, key1, key2, key3 = begun(line, count)
    if is_stochastic:
        round0, round1 = rounding_keys(line)
    first, last = groups_of(start, stop, number)
    for at in range(first, last, GROUPS):
        entry = at * GROUP
        group = (at + row).to(tl.uint64)
        begin, end = bounds(start, stop, entry)
        held = loaded(source + entry, place, begin, end, dtype, is_whole)
        other = loaded(source + entry, place + HALF, begin, end, dtype, is_whole)
        left, right = summed(
            law,
            kind,
            count,
            has_scales,
            line,
            c,
            d,
            key0,
            key1,
            key2,
            key3,
            entry,
            group,
            part,
            bit,
            place,
            begin,
            end,
        )
        k, m = part, part
        if is_stochastic:
            k, m = halves(group, part, bit, round0, round1)
        left = added(held, factor, left, k, dtype, is_stochastic)
        right = added(other, factor, right, m, dtype, is_stochastic)
        if dtype == TURNED:
            inside, beside = (place >= begin) & (place < end), (place + HALF >= begin) & (place + HALF < end)
            tl.store(target + entry + turned(line, entry, place), left, mask=inside)
            tl.store(target + entry + turned(line, entry, place + HALF), right, mask=beside)
        else:
            store(target + entry, place, left, begin, end, is_whole)
            store(target + entry, place + HALF, right, begin, end, is_whole)


@triton.jit(do_not_specialize=["stride", "origin"])
def move(
    pieces,
    owners,
    lines,
    origin: tl.int64,
    stride,
    kind: tl.constexpr,
    count: tl.constexpr,
    has_scales: tl.constexpr,
    dtype: tl.constexpr,
    is_stochastic: tl.constexpr,
    is_whole: tl.constexpr,
):
    """`move_groups` without computed laws."""
    move_groups(pieces, owners, lines, origin, stride, no_law, kind, count, has_scales, dtype, is_stochastic, is_whole)
