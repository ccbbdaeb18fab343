"""Moves of weights in the registers of a GPU: draw, scale and add as `kernels.c` does, with the same bits.

Every program takes some tiles of one piece of an array: a row of `PIECE` words, found through a table that has the number
of the piece for each program. What the piece adds is a line of the table of sums: a word with the number of terms and the
factor of the weights, then the terms, records of `tables.py` read as 64-bit words. To be launched without fusion, as in
`gpu_noise.py`, whose laws and layout are used here.
"""

# ruff: noqa: SIM108, SIM109
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl

from zoplat_devices.kernels import tables
from zoplat_devices.kernels.gpu_noise import COARSE, GROUP, HALF, LINE, NORMAL, SIGN, UNIFORM, drawn, halves, share
from zoplat_devices.kernels.tables import DTYPES, FROM_FLOAT32, TERMS

LOW_RANK, VALUES, COMPUTED = (tl.constexpr(TERMS[kind]) for kind in ("low-rank", "values", "computed"))
MIXED = tl.constexpr(-1)
MANY = tl.constexpr(-1)  # in place of a number of terms that is known when a program is compiled
FLOAT32, BFLOAT16, FLOAT16 = (tl.constexpr(DTYPES[name]) for name in ("float32", "bfloat16", "float16"))
TO_BFLOAT16, TO_FLOAT16 = (tl.constexpr(FROM_FLOAT32[name]) for name in ("bfloat16", "float16"))
SUM = tl.constexpr(tables.SUM)

GROUPS = tl.constexpr(4)  # in a tile
TILE = tl.constexpr(4 * 512)
TILES = tl.constexpr(8)  # of one program
DOWN, ACROSS = tl.constexpr(64), tl.constexpr(128)  # rows and columns of a tile of a matrix in factors
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
    if dtype == SUM:
        held = 0.0
    elif is_whole:  # no mask, so that loads are wide
        held = tl.load(source + place)
    else:
        held = tl.load(source + place, mask=(place >= begin) & (place < end))
    return held


@triton.jit
def rounded(total, k, dtype: tl.constexpr, is_stochastic: tl.constexpr):
    """A float32 as it is stored."""
    if dtype == FLOAT32 or dtype == SUM:
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
    if dtype != SUM:
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
def types(dtype: tl.constexpr):
    """Pointer types of source and target."""
    source: tl.constexpr = tl.float16 if dtype == FLOAT16 else tl.bfloat16 if dtype == BFLOAT16 else tl.float32
    return source


@triton.jit
def opened(pieces, owners, lines, origin, stride, dtype: tl.constexpr, is_aligned: tl.constexpr):
    """The piece of a program: source, target, first and last entry, its number among the programs of the piece, line."""
    piece = pieces + tl.load(owners + tl.program_id(0)).to(tl.int64) * PIECE
    source_type = tl.float16 if dtype == FLOAT16 else tl.bfloat16 if dtype == BFLOAT16 else tl.float32
    target_type = (
        tl.float32
        if dtype == FLOAT32 or dtype == SUM
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
    line = lines + tl.load(fields + 8).to(tl.int64) * (1 + stride * TERM)
    return source, target, tl.load(piece + 2), tl.load(piece + 3), number, line


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
    source, target, start, stop, number, line = opened(pieces, owners, lines, origin, stride, dtype, is_whole)
    factor = tl.load(line.to(tl.pointer_type(tl.float32)) + 1)
    terms = tl.load(line.to(tl.pointer_type(tl.int32))) if count == MANY or is_stochastic else count
    one, two = line + 1, line + 1 + TERM
    rows, bit = tl.arange(0, GROUPS * HALF // LINE)[:, None], tl.arange(0, LINE)[None, :]
    place = rows // (HALF // LINE) * GROUP + rows % (HALF // LINE) * LINE + bit
    part, bit = (rows % (HALF // LINE)).to(tl.uint32), bit.to(tl.uint32)
    narrow: tl.constexpr = dtype == BFLOAT16 or dtype == FLOAT16
    unsigned: tl.constexpr = tl.uint16 if narrow else tl.uint32
    bit = tl.load(source.to(tl.pointer_type(unsigned), bitcast=True) + place, mask=stride < 0, other=tl.broadcast_to(bit, (GROUPS * HALF // LINE, LINE)).to(unsigned)).to(tl.uint32)
    c, d, key0, key1, key2, key3 = 0.0, 0.0, 0, 0, 0, 0
    if count == 1 or count == 2:
        c, key0, key1 = coefficient(one), key(one, 0), key(one, 1)
    if count == 2:
        d, key2, key3 = coefficient(two), key(two, 0), key(two, 1)
    if is_stochastic:
        rounding = line + 1 + terms * TERM
        round0, round1 = key(rounding, 0), key(rounding, 1)
    first = start // GROUP + number * (TILES * GROUPS)
    last = tl.minimum(first + TILES * GROUPS, (stop + GROUP - 1) // GROUP)
    for at in range(first, last, GROUPS):
        entry = at * GROUP
        group = (at + rows // (HALF // LINE)).to(tl.uint64)
        begin, end = tl.maximum(start - entry, 0).to(tl.int32), tl.minimum(stop - entry, TILE).to(tl.int32)
        held = loaded(source + entry, place, begin, end, dtype, is_whole)
        other = loaded(source + entry, place + HALF, begin, end, dtype, is_whole)
        if count == 0:
            left = tl.full((GROUPS * HALF // LINE, LINE), 0.0, tl.float32)
            right = left
        elif count == MANY:
            left, right = entries(
                kind, law, has_scales, one, key(one, 0), key(one, 1), entry, group, part, bit, place, begin, end
            )
            left, right = coefficient(one) * left, coefficient(one) * right
            for k in range(1, terms):
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
        k, m = part, part
        if is_stochastic:
            k, m = halves(group, part, bit, round0, round1)
        left = added(held, factor, left, k, dtype, is_stochastic)
        right = added(other, factor, right, m, dtype, is_stochastic)
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
    move_groups(
        pieces, owners, lines, origin, stride, no_law, kind, count, has_scales, dtype, is_stochastic, is_whole
    )


@triton.jit
def factor_u(term, top, rows):
    """Addresses of the first column of U in the rows of a band, and the rank."""
    rank = tl.load(term.to(tl.pointer_type(tl.int32)) + 1)
    return tl.load(term + 6).to(tl.pointer_type(tl.float32)) + top * rank + rows * rank, rank


@triton.jit
def factor_v(term, across):
    """Addresses of the first row of V."""
    return tl.multiple_of(tl.load(term + 7).to(tl.pointer_type(tl.float32)), 16) + across


@triton.jit
def product(u, v, columns, in_rows, in_columns, some, rank: tl.constexpr):
    """A tile of U V, summed over the rank in order; U and V are loaded once for the tile."""
    z = tl.load(u, mask=in_rows) * tl.load(v, mask=in_columns)
    if rank == MANY:
        for _ in range(1, some):
            u += 1
            v += columns
            z = z + tl.load(u, mask=in_rows) * tl.load(v, mask=in_columns)
    else:
        for _ in tl.static_range(1, rank):
            u += 1
            v += columns
            z = z + tl.load(u, mask=in_rows) * tl.load(v, mask=in_columns)
    return z


@triton.jit(do_not_specialize=["stride", "origin"])
def move_factors(
    pieces,
    owners,
    lines,
    origin: tl.int64,
    stride,
    rank: tl.constexpr,
    count: tl.constexpr,
    dtype: tl.constexpr,
    is_whole: tl.constexpr,
):
    """A band of rows of a matrix: target ← factor·source + the sum of its terms, all of them in factors.

    Pieces are whole rows. With `is_whole`, arrays begin at multiples of 16 bytes, and so do rows of eight entries.
    """
    source, target, start, stop, number, line = opened(pieces, owners, lines, origin, stride, dtype, is_whole)
    factor = tl.load(line.to(tl.pointer_type(tl.float32)) + 1)
    terms = tl.load(line.to(tl.pointer_type(tl.int32))) if count == MANY else count
    one, two = line + 1, line + 1 + TERM
    columns = tl.load(one.to(tl.pointer_type(tl.int32)) + 11)
    if is_whole:
        columns = tl.multiple_of(columns, 8)
    top = start // columns + number * DOWN
    rows, across = tl.arange(0, DOWN)[:, None], tl.arange(0, ACROSS)[None, :]
    place = rows * columns + across
    entry = top * columns
    in_rows = rows < tl.minimum(stop // columns - top, DOWN).to(tl.int32)
    c, d = coefficient(one), 0.0
    u, some = factor_u(one, top, rows)
    v = factor_v(one, across)
    if count == 2:
        d = coefficient(two)
        t, other = factor_u(two, top, rows)
        w = factor_v(two, across)
    for at in range(0, columns, ACROSS):
        in_columns = across < columns - at
        inside = in_rows & in_columns
        if dtype == SUM:
            held = 0.0
        else:
            held = tl.load(source + (entry + at) + place, mask=inside)
        total = c * product(u, v + at, columns, in_rows, in_columns, some, rank)
        if count == 2:
            total = total + d * product(t, w + at, columns, in_rows, in_columns, other, rank)
        if count == MANY:
            for k in range(1, terms):
                term = one + k * TERM
                x, other = factor_u(term, top, rows)
                z = product(x, factor_v(term, across) + at, columns, in_rows, in_columns, other, rank)
                total = total + coefficient(term) * z
        tl.store(target + (entry + at) + place, added(held, factor, total, 0, dtype, False), mask=inside)


@triton.jit(do_not_specialize=["out", "key0", "key1", "first", "count"])
def numbers(out: tl.int64, key0: tl.int64, key1: tl.int64, first: tl.int64, count: tl.int64, law: tl.constexpr):
    """Random numbers first to first + count of a stream."""
    rows, bit = tl.arange(0, GROUPS * HALF // LINE)[:, None], tl.arange(0, LINE)[None, :]
    at = first // GROUP + tl.program_id(0).to(tl.int64) * GROUPS
    group = (at + rows // (HALF // LINE)).to(tl.uint64)
    part = (rows % (HALF // LINE)).to(tl.uint32)
    left, right = drawn(law, group, part, bit.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32))
    place = at * GROUP - first + (rows // (HALF // LINE) * GROUP + rows % (HALF // LINE) * LINE + bit)
    target = out.to(tl.pointer_type(tl.float32)) + place
    tl.store(target, left, mask=(place >= 0) & (place < count))
    tl.store(target + HALF, right, mask=(place + HALF >= 0) & (place + HALF < count))
