"""Kernels generate the random numbers of the numpy definition, bit for bit, from any offset of a stream."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from zoplat import Key
from zoplat_devices.kernels.noise import GROUP, LAWS, FusedNoise, ReferenceNoise, fma, second, words
from zoplat_devices.kernels.tables import Kernels

STREAMS = [(0, 0), (1, 0), (0, 1), (0xFFFFFFFF, 0xFFFFFFFF), (0x9E3779B9, 0x243F6A88), (12345, 2**31)]
OFFSETS = [0, 1, 31, 32, 255, 256, 511, 512, 513, 100_000, 2**31 - 300, 2**32 - 700, 2**32, 2**37 + 12345]

NEARLY_ONE = 22_526_217  # counter of a word of the stream (1, 2) that is almost 2³²
WORDS = ["0xc48bea2a", "0xb2dc20e2", "0x20f5060d"]
FIRST = {
    "normal": [3189172182, 3207596471, 3205997770, 1063628898],
    "sign": [1065353216, 3212836864, 1065353216, 3212836864],
    "uniform": [1061456874, 1060297760, 1062129966, 1058063192],
    "coarse": [1063922304, 1040419328, 1043904000, 1051767552],
}


@pytest.fixture(scope="module")
def made(kernels: Kernels) -> FusedNoise:
    """The noise of each kind of kernels in turn."""
    device = getattr(kernels, "device", "cpu")
    return FusedNoise(kernels, lambda shape, dtype: torch.empty(shape, dtype=getattr(torch, dtype), device=device))


def is_interpreted(made: FusedNoise) -> bool:
    """Whether the kernels are interpreted, which takes ten milliseconds for every four groups."""
    return getattr(made.kernels, "device", "") == "cpu"


def bits(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array.cpu() if isinstance(array, torch.Tensor) else array).view(np.uint32)


def rounded_once(exact: Fraction) -> np.float32:
    """The float32 number next to an exact one; of two that are as near, the one whose last bit is zero."""
    near = np.float32(float(exact))
    around = [near, *(np.nextafter(near, np.float32(side)) for side in (-math.inf, math.inf))]
    off = [abs(Fraction(float(x)) - exact) for x in around]
    nearest = [x for x, distance in zip(around, off, strict=True) if distance == min(off)]
    return next(x for x in nearest if len(nearest) == 1 or x.view(np.uint32) % 2 == 0)


def test_a_fused_multiply_add_is_rounded_once() -> None:
    """Sums a hair beside what is half-way between two float32 numbers, and others; large, small and denormal."""
    rng = np.random.default_rng(2)
    odd = rng.integers(2**11, 2**12, (2, 400)) * 2 + 1  # a product of 25 or 26 bits: half-way, or a quarter
    scale = np.float32(2.0) ** rng.choice([-75, -70, -20, 0, 40], 400)
    a, b = odd[0].astype(np.float32) * scale, odd[1].astype(np.float32) * scale
    hair = np.ldexp(a.astype(np.float64) * b, -60).astype(np.float32)
    c = hair * rng.choice([-1, 0, 1, 2.0**40], 400).astype(np.float32)
    expected = [
        rounded_once(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert (fma(a, b, c) == np.array(expected)).all()
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != np.array(expected)).sum() > 20, "the first rounding does hide the hair"


@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize("first", OFFSETS)
def test_kernels_and_definition_agree_at_every_offset(made: FusedNoise, law: str, first: int) -> None:
    for stream in STREAMS[3:5] if is_interpreted(made) else STREAMS:
        for count in (1, 2, 500, 1500):
            expected = ReferenceNoise().numbers(law, stream, first, (count,))
            assert expected.dtype == np.float32
            got = made.numbers(law, stream, first, (count,))
            assert (bits(got) == bits(expected)).all(), f"{stream}, {count} numbers"


@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize("maker", ["definition", "kernels"])
def test_a_stream_has_the_same_numbers_however_it_is_split(law: str, maker: str, made: FusedNoise) -> None:
    noise: Any = made if maker == "kernels" else ReferenceNoise()
    rng = np.random.default_rng(1)
    for start in (0, 777, 2**32 - 2000):
        whole = noise.numbers(law, (5, 6), start, (4000,))
        cuts = [0, *sorted(rng.integers(0, 4000, size=12).tolist()), 4000]
        pieces = [bits(noise.numbers(law, (5, 6), start + a, (b - a,))) for a, b in pairwise(cuts) if b > a]
        assert (np.concatenate(pieces) == bits(whole)).all()


@pytest.mark.parametrize("law", sorted(LAWS))
def test_kernels_and_definition_agree_on_a_million_numbers(made: FusedNoise, law: str) -> None:
    stream, shape = (0xDEADBEEF, 0x12345678), (30 if is_interpreted(made) else 1000, 1000)
    expected = ReferenceNoise().numbers(law, stream, 300, shape)
    assert (bits(made.numbers(law, stream, 300, shape)) == bits(expected)).all()


def test_a_radius_of_zero_has_the_sign_of_the_definition(made: FusedNoise) -> None:
    """Words within 128 of 2³² have logarithm 0, a signed zero: one word in 33 million."""
    group, lane = divmod(NEARLY_ONE, GROUP // 2)
    first = group * GROUP + lane
    expected = np.concatenate(
        [ReferenceNoise().numbers("normal", (1, 2), place, (1,)) for place in (first, first + 256)]
    )
    got = [bits(made.numbers("normal", (1, 2), place, (1,))) for place in (first, first + 256)]
    assert words((1, 2), np.array([NEARLY_ONE], np.uint64))[0] >= 2**32 - 128
    assert (expected == 0).all()
    assert (np.concatenate(got) == bits(expected)).all()


def test_the_first_numbers_are_those_of_recorded_runs() -> None:
    """Version 1 of the definition: if these change, no recorded run can be replayed."""
    counters = np.array([0, 1, 2**32], np.uint64)
    assert [hex(w) for w in words((1, 2), counters).tolist()] == WORDS
    for law, expected in FIRST.items():
        assert ReferenceNoise().numbers(law, (1, 2), 0, (4,)).view(np.uint32).tolist() == expected


def test_65536_words_of_a_stream_are_distinct() -> None:
    made = words((3, 4), np.arange(2**16, dtype=np.uint64))
    assert len(np.unique(made)) == 2**16


def test_members_of_a_pair_share_a_radius_and_are_half_a_group_apart() -> None:
    z = ReferenceNoise().numbers("normal", (3, 4), 0, (GROUP,)).astype(np.float64)
    a = words((3, 4), np.arange(GROUP // 2, dtype=np.uint64)) | np.uint32(1)
    radius = np.sqrt(-2 * np.log(a / 2.0**32))
    np.testing.assert_allclose(np.hypot(z[: GROUP // 2], z[GROUP // 2 :]), radius, rtol=1e-5, atol=1e-5)


def test_normals_are_finite_and_bounded_whatever_the_words() -> None:
    """The largest −ln of a word is 22.2, so no normal exceeds √(2·22.2) = 6.66."""
    z = ReferenceNoise().numbers("normal", (7, 8), 0, (2**18,))
    assert np.isfinite(z).all()
    assert 4 < np.abs(z).max() < 6.67


def test_signs_are_one_and_uniforms_stay_below_one_on_their_grid() -> None:
    signs = ReferenceNoise().numbers("sign", (7, 8), 0, (2**16,))
    assert set(np.unique(signs).tolist()) == {-1.0, 1.0}
    u = ReferenceNoise().numbers("uniform", (7, 8), 0, (2**16,)).astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    assert (u * 2**24 == np.floor(u * 2**24)).all()


def test_coarse_numbers_are_made_of_half_words_and_half_second_words() -> None:
    made = ReferenceNoise().numbers("coarse", (7, 8), 0, (2 * GROUP,)).astype(np.float64) * 2**16 - 0.5
    a = words((7, 8), np.arange(GROUP // 2, dtype=np.uint64)).reshape(2, -1)
    b = second((7, 8), a)
    expected = np.stack([a & np.uint32(0xFFFF), a >> np.uint32(16), b & np.uint32(0xFFFF), b >> np.uint32(16)], axis=1)
    np.testing.assert_array_equal(made, expected.reshape(-1))


MOMENTS = [("normal", 1, 3), ("sign", 1, 1), ("uniform", 1 / 12, 1 / 80), ("coarse", 1 / 12, 1 / 80)]


@pytest.mark.parametrize(("law", "variance", "fourth"), MOMENTS)
def test_a_quarter_million_numbers_have_the_moments_of_their_law(law: str, variance: float, fourth: float) -> None:
    """Within five standard errors, taken from the sample itself."""
    x = ReferenceNoise().numbers(law, (9, 10), 0, (2**18,)).astype(np.float64)
    x -= 0.5 if law in ("uniform", "coarse") else 0.0
    for power, expected in ((1, 0.0), (2, variance), (3, 0.0), (4, fourth)):
        y = x**power
        assert abs(y.mean() - expected) <= 5 * y.std() / 2**9 + 1e-12, f"moment {power}"


def test_seeds_steps_draws_and_blocks_that_differ_by_one_are_uncorrelated() -> None:
    n = 2**15
    noise = ReferenceNoise()
    base = noise.normal((n,), Key(1, 1, 1), "w")
    for address in ((Key(2, 1, 1), "w"), (Key(1, 2, 1), "w"), (Key(1, 1, 2), "w"), (Key(1, 1, 1), "v")):
        assert abs(float(base @ noise.normal((n,), *address)) / n) <= 5 / n**0.5
