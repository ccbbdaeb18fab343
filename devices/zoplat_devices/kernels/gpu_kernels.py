"""Draw, scale and add in the registers of a GPU: `kernels.c` in Triton, with the same bits.

Records are those of `tables.py`, read as 64-bit words. A group of 512 entries is held as two halves of 256, the two
members of each pair of normals. To be launched without fusion: only what is written `fma` may be fused.
"""

# ruff: noqa: SIM108, SIM109
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl

from zoplat_devices.kernels import tables
from zoplat_devices.kernels.tables import DTYPES, FROM_FLOAT32, TERMS

NORMAL, SIGN, UNIFORM = (tl.constexpr(TERMS[law]) for law in ("normal", "sign", "uniform"))
LOW_RANK, VALUES, COARSE = (tl.constexpr(TERMS[law]) for law in ("low-rank", "values", "coarse"))
FLOAT32, BFLOAT16, FLOAT16 = (tl.constexpr(DTYPES[name]) for name in ("float32", "bfloat16", "float16"))
SUM = tl.constexpr(tables.SUM)
MIXED = tl.constexpr(-1)
TO_BFLOAT16, TO_FLOAT16 = (tl.constexpr(FROM_FLOAT32[name]) for name in ("bfloat16", "float16"))

GROUP, HALF = tl.constexpr(512), tl.constexpr(256)
ROWS = tl.constexpr(4)  # groups that a program holds at a time
SLICE = tl.constexpr(32)  # groups of one program
TERM_WORDS, JOB_WORDS = (tl.constexpr(record.itemsize // 8) for record in (tables.TERM, tables.JOB))


@triton.jit
def word(low, high, key0, key1):
    """A random word; `high` combines the counter's upper half and the second key."""
    x = (low * 0x9E3779B9 + key0) ^ high
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = ((x ^ (x >> 15)) + key1) * 0x735A2D97
    x = (x ^ (x >> 15)) * 0x31848BAB
    return x ^ (x >> 14)


@triton.jit
def words(counter, offset, key0, key1):
    """Words number counter + offset; the offset never carries into the upper half."""
    high = (counter >> 32).to(tl.uint32) * 0x85EBCA6B
    return word(counter.to(tl.uint32) + offset, high ^ key1, key0, key1)


@triton.jit
def second(first, key1):
    """A second word from a first one."""
    x = first + key1
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def normals(group, lane, key0, key1):
    """Standard normals, a pair from two words: one member in each half of a group."""
    a = words(group * HALF, lane, key0, key1)
    bits = (a | 1).to(tl.float32).to(tl.uint32, bitcast=True) - 0x4F3504F3
    exponent = (bits.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    m = ((bits & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = tl.fma(m, -0.14106312, 0.22070729)
    p = tl.fma(p, m, -0.25458856)
    p = tl.fma(p, m, 0.33262362)
    p = tl.fma(p, m, -0.49987507)
    p = tl.fma(p, m * m, m)
    radius = tl.sqrt_rn(tl.fma(exponent, -0.69314718, p * -1.0))  # `-p` would be 0 − p, which loses the sign of 0
    b = second(a, key1)
    angle = b.to(tl.int32, bitcast=True).to(tl.float32) * 3.6572952e-10
    square = angle * angle
    cosine = tl.fma(square, -0.00135978, 0.04165629)
    cosine = tl.fma(cosine, square, -0.49999895)
    cosine = tl.fma(cosine, square, 1.0)
    sine = tl.fma(tl.fma(square, 0.00815299, -0.16662834), square * angle, angle)
    left = (radius * (cosine - sine)).to(tl.uint32, bitcast=True) ^ (b << 31)
    right = (radius * (cosine + sine)).to(tl.uint32, bitcast=True) ^ ((b << 30) & 0x80000000)
    return left.to(tl.float32, bitcast=True), right.to(tl.float32, bitcast=True)


@triton.jit
def sign(bits, place):
    """+1 or −1 by one bit of a word."""
    return (0x3F800000 ^ (((bits >> (place & 31)) & 1) << 31)).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def signs(group, lane, key0, key1):
    """Random signs; 32 entries share a word."""
    counter = group * (GROUP // 32)
    left = words(counter, lane >> 5, key0, key1)
    right = words(counter, (lane >> 5) + HALF // 32, key0, key1)
    return sign(left, lane), sign(right, lane)


@triton.jit
def uniforms(group, lane, key0, key1):
    """Uniform numbers: the 24 high bits of a word for each entry, divided by 2²⁴."""
    left = words(group * GROUP, lane, key0, key1) >> 8
    right = words(group * GROUP, lane + HALF, key0, key1) >> 8
    return left.to(tl.float32) * 5.9604644775390625e-8, right.to(tl.float32) * 5.9604644775390625e-8


@triton.jit
def halves(group, lane, key0, key1):
    """16 random bits for each entry: lower and upper halves of words, then those of their second words."""
    a = words(group * (HALF // 2), lane & (HALF // 2 - 1), key0, key1)
    b = second(a, key1)
    upper = (lane >> 7) << 4
    return (a >> upper) & 0xFFFF, (b >> upper) & 0xFFFF


@triton.jit
def share(k):
    """(k + ½) / 2¹⁶, exact: 16 random bits as a number in (0, 1)."""
    return k.to(tl.float32) * 1.52587890625e-5 + 7.62939453125e-6


@triton.jit
def drawn(kind: tl.constexpr, group, lane, key0, key1):
    """Random numbers of a stream in some groups: left and right halves, (groups, HALF) each."""
    if kind == NORMAL:
        left, right = normals(group, lane, key0, key1)
    elif kind == SIGN:
        left, right = signs(group, lane, key0, key1)
    elif kind == UNIFORM:
        left, right = uniforms(group, lane, key0, key1)
    else:
        left, right = halves(group, lane, key0, key1)
        left, right = share(left), share(right)
    return left, right


@triton.jit
def outer(term, entry, place, inside):
    """Entries of U V from some entry on, summed over the rank in order."""
    fields = term.to(tl.pointer_type(tl.int32))
    rank, columns = tl.load(fields + 1), tl.load(fields + 5)
    u = tl.load(term + 3).to(tl.pointer_type(tl.float32))
    v = tl.load(term + 4).to(tl.pointer_type(tl.float32))
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
    z = tl.load(term + 3).to(tl.pointer_type(tl.float32)) + entry
    return tl.load(z + place, mask=inside, other=0.0)


@triton.jit
def key(term, number):
    """One of the two keys of a term's stream."""
    return tl.load(term.to(tl.pointer_type(tl.uint32)) + 2 + number)


@triton.jit
def entries_of(kind: tl.constexpr, term, entry, group, lane, place, begin, end):
    """The vector of a term whose kind is known at compile time, on some groups: left and right halves."""
    if kind == LOW_RANK or kind == VALUES:
        other = place + HALF
        in_left, in_right = (place >= begin) & (place < end), (other >= begin) & (other < end)
        if kind == LOW_RANK:
            left, right = outer(term, entry, place, in_left), outer(term, entry, other, in_right)
        else:
            left, right = values(term, entry, place, in_left), values(term, entry, other, in_right)
    else:
        left, right = drawn(kind, group, lane, key(term, 0), key(term, 1))
    return left, right


@triton.jit
def entries(kind: tl.constexpr, term, entry, group, lane, place, begin, end):
    """The same, where kinds may also be `MIXED`, which takes twice the registers."""
    if kind != MIXED:
        left, right = entries_of(kind, term, entry, group, lane, place, begin, end)
    else:
        found = tl.load(term.to(tl.pointer_type(tl.int32)))
        if found == NORMAL:
            left, right = entries_of(NORMAL, term, entry, group, lane, place, begin, end)
        elif found == SIGN:
            left, right = entries_of(SIGN, term, entry, group, lane, place, begin, end)
        elif found == UNIFORM:
            left, right = entries_of(UNIFORM, term, entry, group, lane, place, begin, end)
        elif found == COARSE:
            left, right = entries_of(COARSE, term, entry, group, lane, place, begin, end)
        elif found == LOW_RANK:
            left, right = entries_of(LOW_RANK, term, entry, group, lane, place, begin, end)
        else:
            left, right = entries_of(VALUES, term, entry, group, lane, place, begin, end)
    return left, right


@triton.jit
def scaled(z, term, entry, place, begin, end):
    """A vector times its scale s or 1/√s, if it has one; rounded before it is multiplied by the coefficient."""
    scale = tl.load(term + 5)
    if scale != 0:
        inside = (place >= begin) & (place < end)
        s = tl.load(scale.to(tl.pointer_type(tl.float32)) + entry + place, mask=inside, other=1.0)
        z = z * tl.where(tl.load(term + 6) != 0, tl.div_rn(1.0, tl.sqrt_rn(s)), s)
    return z


@triton.jit
def to_bfloat(bits):
    """A float32 rounded to nearest, ties to even."""
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return tl.where(is_nan, (bits >> 16) | 64, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)


@triton.jit
def stochastic_bfloat(bits, k):
    """A float32 rounded stochastically with 16 random bits k, as in zoplat/space/rounding.py."""
    size = bits & 0x7FFFFFFF
    away = (k < (bits & 0xFFFF)) & (size < 0x7F7F0000)
    nan = (size > 0x7F800000).to(tl.uint32) << 6
    return (((bits >> 16) + away.to(tl.uint32)) | nan).to(tl.uint16)


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
def moved(
    source, target, place, begin, end, is_full, factor, total, k, dtype: tl.constexpr, is_stochastic: tl.constexpr
):
    """Target ← factor·source + total on the left or right half of some groups."""
    inside = (place >= begin) & (place < end)
    if dtype != SUM:
        if is_full:  # no mask, so that loads are wide
            held = tl.load(source + place)
        else:
            held = tl.load(source + place, mask=inside)
        if dtype == BFLOAT16:
            held = held.to(tl.uint32) << 16
            held = held.to(tl.float32, bitcast=True)
        total = factor * held.to(tl.float32) + total
    bits = total.to(tl.uint32, bitcast=True)
    if dtype == FLOAT32 or dtype == SUM:
        result = total
    elif dtype == BFLOAT16 or dtype == TO_BFLOAT16:
        result = stochastic_bfloat(bits, k) if is_stochastic else to_bfloat(bits)
    else:
        result = stochastic_half(bits, k).to(tl.float16) if is_stochastic else total.to(tl.float16)
    if is_full:
        tl.store(target + place, result)
    else:
        tl.store(target + place, result, mask=inside)


@triton.jit(do_not_specialize=["first", "slices", "stride", "origin"])
def move(
    jobs,
    terms,
    counts,
    first,
    slices,
    stride,
    factor,
    origin: tl.int64,
    kind: tl.constexpr,
    has_scales: tl.constexpr,
    dtype: tl.constexpr,
    is_stochastic: tl.constexpr,
    is_aligned: tl.constexpr,
):
    """A slice of a job: target ← factor·source + the sum of its terms, all of one kind or `MIXED`."""
    program = tl.program_id(0)
    job = jobs + (first + program // slices).to(tl.int64) * JOB_WORDS
    start, stop = tl.load(job + 2), tl.load(job + 3)
    line = tl.load(job.to(tl.pointer_type(tl.int32)) + 8).to(tl.int64)
    count = tl.load(counts + line)
    line_terms = terms + line * stride * TERM_WORDS
    source_type = tl.float16 if dtype == FLOAT16 else tl.uint16 if dtype == BFLOAT16 else tl.float32
    target_type = (
        tl.float32
        if dtype == FLOAT32 or dtype == SUM
        else tl.float16
        if dtype == FLOAT16 or dtype == TO_FLOAT16
        else tl.uint16
    )
    source = tl.load(job).to(tl.pointer_type(source_type))
    target = (tl.load(job + 1) + origin).to(tl.pointer_type(target_type))
    if is_aligned:
        source, target = tl.multiple_of(source, 16), tl.multiple_of(target, 16)
    row, lane = tl.arange(0, ROWS)[:, None], tl.arange(0, HALF)[None, :]
    place = row * GROUP + lane
    lane = lane.to(tl.uint32)
    first_group = start // GROUP + (program % slices) * SLICE
    end_group = tl.minimum(first_group + SLICE, (stop + GROUP - 1) // GROUP)
    for number in range(first_group, end_group, ROWS):
        entry = number * GROUP
        group = (number + row).to(tl.uint64)
        begin = tl.maximum(start - entry, 0).to(tl.int32)
        end = tl.minimum(stop - entry, ROWS * GROUP).to(tl.int32)
        left = tl.full((ROWS, HALF), 0.0, tl.float32)
        right = tl.full((ROWS, HALF), 0.0, tl.float32)
        for k in range(count):
            term = line_terms + k * TERM_WORDS
            c = tl.load(term.to(tl.pointer_type(tl.float32)) + 4)
            z, other = entries(kind, term, entry, group, lane, place, begin, end)
            if has_scales:
                z = scaled(z, term, entry, place, begin, end)
                other = scaled(other, term, entry, place + HALF, begin, end)
            left = tl.where(k == 0, c * z, left + c * z)
            right = tl.where(k == 0, c * other, right + c * other)
        left_bits, right_bits = lane, lane
        if is_stochastic:
            term = line_terms + count * TERM_WORDS
            left_bits, right_bits = halves(group, lane, key(term, 0), key(term, 1))
        is_full = (begin == 0) & (end == ROWS * GROUP)
        read, written = source + entry, target + entry
        moved(read, written, place, begin, end, is_full, factor, left, left_bits, dtype, is_stochastic)
        moved(read, written, place + HALF, begin, end, is_full, factor, right, right_bits, dtype, is_stochastic)


@triton.jit(do_not_specialize=["out", "key0", "key1", "first", "count"])
def numbers(out: tl.int64, key0: tl.int64, key1: tl.int64, first: tl.int64, count: tl.int64, kind: tl.constexpr):
    """Random numbers first to first + count of a stream."""
    row, lane = tl.arange(0, ROWS)[:, None], tl.arange(0, HALF)[None, :]
    number = first // GROUP + tl.program_id(0).to(tl.int64) * ROWS
    group = (number + row).to(tl.uint64)
    left, right = drawn(kind, group, lane.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32))
    place = number * GROUP - first + (row * GROUP + lane)
    target = out.to(tl.pointer_type(tl.float32)) + place
    tl.store(target, left, mask=(place >= 0) & (place < count))
    tl.store(target + HALF, right, mask=(place + HALF >= 0) & (place + HALF < count))
