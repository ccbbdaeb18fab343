"""The random numbers of `docs/explanation/noise.md` in the registers of a GPU, with the bits of `kernels.c`.

A group of 512 entries is held as two halves, the two members of each pair of normals. A half is 8 lines of 32 entries,
so that what 32 neighbours share is computed once for each line that a thread has a piece of. Every law takes

    group    (lines, 1) of uint64: the number of the group that a line belongs to
    part     (lines, 1) of uint32: the number of the line within its half
    bit      (1, 32) of uint32: the place of an entry within its line

and returns both halves. To be launched without fusion: only what is written `fma` may be fused.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl

from zoplat_devices.kernels import gpu_tables
from zoplat_devices.kernels.tables import TERMS

NORMAL, SIGN, UNIFORM, COARSE = (tl.constexpr(TERMS[law]) for law in ("normal", "sign", "uniform", "coarse"))
GROUP, HALF, LINE = tl.constexpr(512), tl.constexpr(256), tl.constexpr(32)
TILE = tl.constexpr(gpu_tables.TILE)


@triton.jit
def mixed(x, key1):
    """The last steps of a word, after counter and keys were put together."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = ((x ^ (x >> 15)) + key1) * 0x735A2D97
    x = (x ^ (x >> 15)) * 0x31848BAB
    return x ^ (x >> 14)


@triton.jit
def words(counter, first, bit, key0, key1):
    """Words number counter + first + bit; neither sum carries into the upper half of the counter."""
    high = ((counter >> 32).to(tl.uint32) * 0x85EBCA6B) ^ key1
    low = (counter.to(tl.uint32) + first) * 0x9E3779B9 + key0
    return mixed((low + bit * 0x9E3779B9) ^ high, key1)


@triton.jit
def second(first, key1):
    """A second word from a first one."""
    x = first + key1
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def normals(group, part, bit, key0, key1):
    """Standard normals, a pair from two words: one member in each half of a group."""
    a = words(group * HALF, part * LINE, bit, key0, key1)
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
def sign(bits, bit):
    """+1 or −1 by one bit of a word."""
    return (((bits << (31 - bit)) & 0x80000000) ^ 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def signs(group, part, bit, key0, key1):
    """Random signs; the 32 entries of a line share a word."""
    counter = group * (GROUP // LINE)
    left = words(counter, part, 0, key0, key1)
    right = words(counter, part + HALF // LINE, 0, key0, key1)
    return sign(left, bit), sign(right, bit)


@triton.jit
def uniforms(group, part, bit, key0, key1):
    """Uniform numbers: the 24 high bits of a word for each entry, divided by 2²⁴."""
    left = words(group * GROUP, part * LINE, bit, key0, key1) >> 8
    right = words(group * GROUP, part * LINE + HALF, bit, key0, key1) >> 8
    return left.to(tl.float32) * 5.9604644775390625e-8, right.to(tl.float32) * 5.9604644775390625e-8


@triton.jit
def halves(group, part, bit, key0, key1):
    """16 random bits for each entry: lower and upper halves of words, then those of their second words."""
    a = words(group * (HALF // 2), (part & 3) * LINE, bit, key0, key1)
    b = second(a, key1)
    upper = (part >> 2) << 4
    return (a >> upper) & 0xFFFF, (b >> upper) & 0xFFFF


@triton.jit
def share(k):
    """(k + ½) / 2¹⁶, exact: 16 random bits as a number in (0, 1)."""
    return k.to(tl.float32) * 1.52587890625e-5 + 7.62939453125e-6


@triton.jit
def drawn(law: tl.constexpr, group, part, bit, key0, key1):
    """Random numbers of a stream in some groups: left and right halves, (lines, 32) each."""
    if law == NORMAL:
        left, right = normals(group, part, bit, key0, key1)
    elif law == SIGN:
        left, right = signs(group, part, bit, key0, key1)
    elif law == UNIFORM:
        left, right = uniforms(group, part, bit, key0, key1)
    else:
        left, right = halves(group, part, bit, key0, key1)
        left, right = share(left), share(right)
    return left, right


@triton.jit(do_not_specialize=["out", "key0", "key1", "first", "count"])
def numbers(out: tl.int64, key0: tl.int64, key1: tl.int64, first: tl.int64, count: tl.int64, law: tl.constexpr):
    """Random numbers first to first + count of a stream."""
    rows, bit = tl.arange(0, TILE // 64)[:, None], tl.arange(0, LINE)[None, :]
    at = first // GROUP + tl.program_id(0).to(tl.int64) * (TILE // GROUP)
    group = (at + rows // (HALF // LINE)).to(tl.uint64)
    part = (rows % (HALF // LINE)).to(tl.uint32)
    left, right = drawn(law, group, part, bit.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32))
    place = at * GROUP - first + (rows // (HALF // LINE) * GROUP + rows % (HALF // LINE) * LINE + bit)
    target = out.to(tl.pointer_type(tl.float32)) + place
    tl.store(target, left, mask=(place >= 0) & (place < count))
    tl.store(target + HALF, right, mask=(place + HALF >= 0) & (place + HALF < count))
