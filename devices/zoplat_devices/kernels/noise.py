"""The noise of `docs/explanation/noise.md`, version 1, in numpy: the executable definition.

Everything is 32-bit integer arithmetic and float32 additions, multiplications, fused multiply-adds and square
roots, each rounded once as IEEE 754 says, so that any machine gives the same bits.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from zoplat.core.noise import Noise, Stream
from zoplat_devices.kernels.tables import Kernels, address

GROUP = 512  # normals are made in groups: the first half are one member of each pair, the second half the other
LOG = [-0.49987507, 0.33262362, -0.25458856, 0.22070729, -0.14106312]
COS = [-0.49999895, 0.04165629, -0.00135978]
SIN = [-0.16662834, 0.00815299]
ANGLE = 3.6572952e-10  # (π/4) / 2³¹
LN2 = 0.69314718
HALF_ROOT_2 = 0x3F3504F3  # bits of √½ in float32
HALFWAY = np.uint64((1 << 28) - 1)  # bits that are zero in each float64 half-way between two float32 numbers


class ReferenceNoise(Noise):
    """The definition in numpy: written to be read, not to be fast."""

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        """Random numbers `first`, `first` + 1, … of a stream, float32 of `shape`."""
        count = int(np.prod(shape))
        return LAWS[law](stream, first, count).reshape(shape)


def words(stream: Stream, counter: np.ndarray) -> np.ndarray:
    """Random 32-bit words number `counter` (uint64) of a stream: a keyed mix of multiplications and shifts."""
    key0, key1 = (np.uint32(key) for key in stream)
    with np.errstate(over="ignore"):
        x = counter.astype(np.uint32) * np.uint32(0x9E3779B9) + key0
        x ^= ((counter >> np.uint64(32)).astype(np.uint32) * np.uint32(0x85EBCA6B)) ^ key1
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
        x = ((x ^ (x >> np.uint32(15))) + key1) * np.uint32(0x735A2D97)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x31848BAB)
    return x ^ (x >> np.uint32(14))


def second(stream: Stream, first: np.ndarray) -> np.ndarray:
    """A second word from a first one, for numbers that come in pairs."""
    x = first + np.uint32(stream[1])
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def normal(stream: Stream, first: int, count: int) -> np.ndarray:
    """Standard normals by the method of Box and Muller, with polynomials for ln, sin and cos."""
    groups = np.arange(first // GROUP, -(-(first + count) // GROUP), dtype=np.uint64)
    pairs = (groups[:, None] * np.uint64(GROUP // 2) + np.arange(GROUP // 2, dtype=np.uint64)).reshape(-1)
    a = words(stream, pairs)
    b = second(stream, a)
    radius = np.sqrt(_minus_log(a))
    angle = b.view(np.int32).astype(np.float32) * np.float32(ANGLE)
    square = angle * angle
    cos = fma(_polynomial(COS, square), square, np.float32(1))
    sin = fma(_polynomial(SIN, square), square * angle, angle)
    bits = np.stack([radius * (cos - sin), radius * (cos + sin)]).view(np.uint32)
    bits ^= np.stack([b << np.uint32(31), (b & np.uint32(2)) << np.uint32(30)])
    z = bits.view(np.float32).reshape(2, -1, GROUP // 2).transpose(1, 0, 2).reshape(-1)
    start = first % GROUP
    return z[start : start + count]


def sign(stream: Stream, first: int, count: int) -> np.ndarray:
    """Fair signs: bit e mod 32 of word e div 32, set for −1."""
    e = np.arange(first, first + count, dtype=np.uint64)
    bits = words(stream, e >> np.uint64(5)) >> (e & np.uint64(31)).astype(np.uint32)
    return np.float32(1) - np.float32(2) * (bits & np.uint32(1)).astype(np.float32)


def uniform(stream: Stream, first: int, count: int) -> np.ndarray:
    """The 24 high bits of word e, over 2²⁴."""
    e = np.arange(first, first + count, dtype=np.uint64)
    return (words(stream, e) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def coarse(stream: Stream, first: int, count: int) -> np.ndarray:
    """(k + ½) / 2¹⁶ with 16 random bits k; a word and its second word give four, a quarter of a group apart."""
    groups = np.arange(first // GROUP, -(-(first + count) // GROUP), dtype=np.uint64)
    counters = groups[:, None] * np.uint64(GROUP // 4) + np.arange(GROUP // 4, dtype=np.uint64)
    a = words(stream, counters.reshape(-1)).reshape(counters.shape)
    b = second(stream, a)
    low, high = np.uint32(0xFFFF), np.uint32(16)
    halves = np.concatenate([a & low, a >> high, b & low, b >> high], axis=1).reshape(-1)
    start = first % GROUP
    return halves[start : start + count].astype(np.float32) * np.float32(2**-16) + np.float32(2**-17)


LAWS = {"normal": normal, "sign": sign, "uniform": uniform, "coarse": coarse}


def _minus_log(word: np.ndarray) -> np.ndarray:
    """−ln of (word | 1) / 2³², from its exponent and its mantissa in [√½, √2)."""
    bits = (word | np.uint32(1)).astype(np.float32).view(np.uint32) - np.uint32(HALF_ROOT_2 + (32 << 23))
    exponent = bits.view(np.int32) >> np.int32(23)
    m = ((bits & np.uint32(0x007FFFFF)) + np.uint32(HALF_ROOT_2)).view(np.float32) - np.float32(1)
    log = fma(_polynomial(LOG, m), m * m, m)
    return fma(exponent.astype(np.float32), np.float32(-LN2), -log)


def _polynomial(coefficients: list[float], x: np.ndarray) -> np.ndarray:
    """c₀ + x(c₁ + x(c₂ + …)), each multiply-add fused."""
    total = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = fma(total, x, np.float32(c))
    return total


def fma(a: np.ndarray, b: Any, c: Any) -> np.ndarray:
    """a·b + c in float32 with one rounding.

    The product is exact in float64, and its sum with c is rounded twice: there, and to float32. That is as good as one
    rounding unless the first leads half-way between two float32 numbers, where the 28 low bits are zero.
    """
    product, addend = a.astype(np.float64) * b, np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    halfway = (total.view(np.uint64) & HALFWAY) == 0
    if halfway.any():
        total[halfway] = _rounded_to_odd(*(x[halfway] for x in np.broadcast_arrays(product, addend)))
    return total.astype(np.float32)


def _rounded_to_odd(product: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """The sum, away from what is even if it is not exact: good for another rounding.

    After Boldo & Melquiond, IEEE Trans. Comput. 57, 2008, with the error of the sum by Knuth's way.
    """
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    return np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)


class FusedNoise(Noise):
    """The random numbers of `ReferenceNoise`, generated by kernels.

    Args:
        kernels: of the device.
        empty: (shape, dtype) → a new array of the device.
    """

    def __init__(self, kernels: Kernels, empty: Callable[[tuple[int, ...], str], Any]) -> None:
        self.kernels = kernels
        self.empty = empty

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        """Random numbers `first`, `first` + 1, … of a stream, float32 of `shape`."""
        out = self.empty(shape, "float32")
        self.kernels.numbers(address(out), law, stream, first, math.prod(shape))
        return out
