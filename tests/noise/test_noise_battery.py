"""A battery of statistical tests on 2²⁶ random numbers of the kernels.

Every figure is a standard score or a p-value under the claimed law; `-s` prints them. Bounds: five standard errors for
a single score; for the largest of m scores, the bound that true random numbers exceed with probability 10⁻⁶.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import fft, special, stats

from zoplat import Key
from zoplat.core.noise import stream
from zoplat_devices.kernels import native
from zoplat_devices.kernels.noise import FusedNoise

N = 2**26
CHUNK = 2**20
RARE = 1e-6
BASE = stream(Key(0, 0, 0), "model.layers.0.weight")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def noise() -> FusedNoise:
    """The noise of the compiled kernels."""
    library = native.kernels()
    if library is None:
        pytest.skip("no C compiler here: neither `ziglang` nor `cc`, or ZOPLAT_KERNELS=numpy")
    return FusedNoise(library, np.empty)


def chunks(noise: FusedNoise, law: str, of: tuple[int, int] = BASE, n: int = N) -> Iterator[np.ndarray]:
    """The first n numbers of a stream as float64, a chunk at a time."""
    for first in range(0, n, CHUNK):
        yield noise.numbers(law, of, first, (CHUNK,)).astype(np.float64)


def fair(scores: Any, what: str) -> None:
    """Assert that the largest of m independent standard scores is within its bound."""
    scores = np.atleast_1d(np.asarray(scores, float))
    bound = max(5.0, float(stats.norm.isf(RARE / 2 / scores.size)))
    worst = float(np.abs(scores).max())
    print(f"\n    {what}: {scores.size} scores, largest {worst:.2f}, bound {bound:.2f}", end="")
    assert worst <= bound, f"{what}: score {worst:.2f} at {int(np.abs(scores).argmax())}, bound {bound:.2f}"


def likely(p: float, what: str) -> None:
    """Assert that a p-value is not extreme at either end."""
    print(f"\n    {what}: p = {p:.4f}", end="")
    assert RARE / 2 <= p <= 1 - RARE / 2, f"{what}: p = {p:.3g}"


def test_normals_have_the_moments_of_the_normal_law(noise: FusedNoise) -> None:
    """Mean, variance, third and fourth moment (3), and the sixth (15) for the tails."""
    powers, exact = (1, 2, 3, 4, 6), {1: 0, 2: 1, 3: 0, 4: 3, 6: 15, 8: 105, 12: 10395}
    sums = dict.fromkeys(powers, 0.0)
    for z in chunks(noise, "normal"):
        square = z * z
        for power, y in zip(powers, (z, square, square * z, square * square, square**3), strict=True):
            sums[power] += float(y.sum())
    for power in powers:
        error = ((exact[2 * power] - exact[power] ** 2) / N) ** 0.5
        print(f"\n    E z^{power} = {sums[power] / N:.6f}", end="")
        fair((sums[power] / N - exact[power]) / error, f"moment {power}")


def test_normals_pass_kolmogorov_and_smirnov_and_have_the_right_tails(noise: FusedNoise) -> None:
    """The distance on all 2²⁶ by a fine histogram, then counts beyond 1 to 6."""
    edges = np.linspace(-7, 7, 2**16 + 1)
    counts = np.zeros(2**16, np.int64)
    beyond = np.zeros(6, np.int64)
    for z in chunks(noise, "normal"):
        counts += np.bincount(((z + 7) * (2**16 / 14)).astype(np.int64), minlength=2**16)
        beyond += [(np.abs(z) > k).sum() for k in range(1, 7)]
    distance = float(np.abs(np.cumsum(counts) / N - special.ndtr(edges[1:])).max())
    print(f"\n    D = {distance:.3g}", end="")
    likely(float(special.kolmogorov(distance * N**0.5)), "Kolmogorov-Smirnov, 2^26 normals")
    p = 2 * stats.norm.sf(np.arange(1, 7))
    fair((beyond[:5] - N * p[:5]) / (N * p[:5] * (1 - p[:5])) ** 0.5, "counts beyond 1 … 5")
    likely(float(stats.poisson.cdf(beyond[5], N * p[5])), f"{beyond[5]} beyond 6, {N * p[5]:.2f} expected")
    expected = N * np.diff(special.ndtr(np.linspace(-4, 4, 4097)))
    seen = counts_between(noise, -4.0, 4.0, 4096)
    score = ((seen - expected) ** 2 / expected).sum()
    likely(float(stats.chi2.sf(score, 4095)), "chi-square, 4096 cells of normals in [-4, 4]")


def counts_between(noise: FusedNoise, low: float, high: float, cells: int) -> np.ndarray:
    """A histogram of 2²⁶ normals."""
    counts = np.zeros(cells, np.int64)
    for z in chunks(noise, "normal"):
        inside = z[(z >= low) & (z < high)]
        counts += np.bincount(((inside - low) * (cells / (high - low))).astype(np.int64), minlength=cells)
    return counts


def test_elements_of_a_stream_are_uncorrelated_at_every_lag(noise: FusedNoise) -> None:
    """Of z and z², at lags 1 … 1024 and at powers of two, by way of the spectrum."""
    lags = np.r_[1:1025, 2048, 4096, 8192, 65536, 2**18]
    totals = {"z": np.zeros(len(lags)), "z²": np.zeros(len(lags))}
    for z in chunks(noise, "normal", n=2**24):
        for name, y in (("z", z), ("z²", (z * z - 1) / 2**0.5)):
            padded = fft.rfft(y, 2 * CHUNK)
            totals[name] += fft.irfft(padded * padded.conj(), 2 * CHUNK)[lags]
    pairs = (2**24 // CHUNK) * (CHUNK - lags)
    for name, total in totals.items():
        fair(total / pairs**0.5, f"lag correlations of {name}")


def test_members_of_a_pair_are_uncorrelated_and_so_are_their_squares(noise: FusedNoise) -> None:
    sums = np.zeros(4)
    for z in chunks(noise, "normal"):
        one, other = z.reshape(-1, 2, 256).transpose(1, 0, 2)
        a, b = (one**2 - 1) / 2**0.5, (other**2 - 1) / 2**0.5
        sums += [(one * other).sum(), (a * b).sum(), (one * b).sum(), (a * other).sum()]
    fair(sums / (N / 2) ** 0.5, "pair members: z·z', squares, mixed")


def test_neighbouring_seeds_steps_draws_and_tensors_are_uncorrelated(noise: FusedNoise) -> None:
    """All pairs among 64 streams: 16 in each direction from one address, 2¹⁸ numbers each, z and z²."""
    keys = [Key(k, 0, 0) for k in range(16)] + [Key(0, k, 0) for k in range(1, 17)]
    addresses: list[tuple[Key, str]] = [(key, "w") for key in keys + [Key(0, 0, k) for k in range(1, 17)]]
    addresses += [(Key(0, 0, 0), f"layers.{k}.w") for k in range(16)]
    z = np.stack([noise.numbers("normal", stream(*address), 0, (2**18,)) for address in addresses])
    z = z.astype(np.float64)
    upper = np.triu_indices(len(z), 1)
    fair((z @ z.T)[upper] / 2**9, "pairs of streams, z")
    z = (z * z - 1) / 2**0.5
    fair((z @ z.T)[upper] / 2**9, "pairs of streams, z²")


@pytest.mark.parametrize("key", [0, 1])
def test_streams_whose_keys_differ_in_one_bit_have_unrelated_words(noise: FusedNoise, key: int) -> None:
    """Keys this close occur only by coincidence; this tests the mixing itself, for each bit of the words."""
    base, scores = words_of(noise, BASE, 2**19), []
    for bit in range(32):
        changed = BASE[0] ^ (key == 0) << bit, BASE[1] ^ (key == 1) << bit
        scores.append(bit_scores(base ^ words_of(noise, changed, 2**19)))
    fair(np.concatenate(scores), f"bits of words under keys one bit of key {key} apart")


def test_streams_that_share_one_key_have_unrelated_words(noise: FusedNoise) -> None:
    """The first key only offsets the counter, so any two streams of a run share it at some lag."""
    base, scores = words_of(noise, BASE, 2**18), []
    for other in np.random.default_rng(0).integers(2**32, size=200).tolist():
        scores.append(bit_scores(base ^ words_of(noise, (BASE[0], other), 2**18)))
    fair(np.concatenate(scores), "bits of words under another second key")


def bit_scores(flips: np.ndarray) -> np.ndarray:
    """Standard scores of how often each of 32 bits is set."""
    ones = np.array([int((flips >> np.uint32(b) & np.uint32(1)).sum()) for b in range(32)])
    return (ones - flips.size / 2) / (flips.size / 4) ** 0.5


def test_words_change_in_half_their_bits_when_the_counter_changes_in_one(noise: FusedNoise) -> None:
    made = words_of(noise, BASE, 2**20)
    scores = []
    for bit in range(20):
        flips = (made ^ made[np.arange(2**20) ^ (1 << bit)]).reshape(-1, 2, 1 << bit)[:, 0].reshape(-1)
        scores.append(bit_scores(flips))
    fair(np.concatenate(scores), "bits of words whose counters are one bit apart")


def words_of(noise: FusedNoise, of: tuple[int, int], count: int) -> np.ndarray:
    """The raw words of a stream, reassembled from its signs."""
    signs = noise.numbers("sign", of, 0, (count * 32,))
    return np.packbits(np.signbit(signs), bitorder="little").view("<u4")


def test_runs_above_and_below_the_median_are_as_many_as_expected(noise: FusedNoise) -> None:
    """Wald and Wolfowitz on signs of normals and on the sign law; then runs up and down of uniforms."""
    for law in ("normal", "sign"):
        changes = sum(int((np.signbit(z[1:]) != np.signbit(z[:-1])).sum()) for z in chunks(noise, law))
        pairs = N // CHUNK * (CHUNK - 1)
        fair((changes - pairs / 2) / (pairs / 4) ** 0.5, f"runs of signs, {law}")
    turns = 0
    for u in chunks(noise, "uniform"):
        up = u[1:] > u[:-1]
        turns += int((up[1:] != up[:-1]).sum())
    n = CHUNK
    mean, variance = 2 * (n - 2) / 3, (16 * n - 29) / 90
    fair((turns - N // n * mean) / (N // n * variance) ** 0.5, "runs up and down, uniforms")


@pytest.mark.parametrize("law", ["normal", "sign", "uniform", "coarse"])
def test_the_spectrum_is_flat(noise: FusedNoise, law: str) -> None:
    """Mean periodogram of 64 stretches of 2²⁰: each ordinate, bands of 1024, and the law of the first."""
    is_even = law in ("uniform", "coarse")
    scale, shift = (12**0.5, 0.5) if is_even else (1.0, 0.0)
    power = np.zeros(CHUNK // 2 - 1)
    first = np.zeros(0)
    for x in chunks(noise, law):
        ordinates = np.abs(fft.rfft((x - shift) * scale)[1:-1]) ** 2 / CHUNK
        power += ordinates
        first = first if first.size else ordinates
    stretches = N // CHUNK
    # a mean of 64 exponentials is gamma; its score comes from the exact tail
    tail = stats.gamma.sf(power, stretches)
    fair(stats.norm.isf(np.clip(tail, 1e-300, 1 - 1e-16)), f"{law}: single frequencies")
    bands = power[: power.size // 1024 * 1024].reshape(-1, 1024).mean(axis=1) / stretches
    fair((bands - 1) * (1024 * stretches) ** 0.5, f"{law}: bands of 1024 frequencies")
    likely(float(stats.kstest(first, "expon").pvalue), f"{law}: ordinates of the first stretch are exponential")


def test_bits_of_sign_words_are_balanced_and_uncorrelated(noise: FusedNoise) -> None:
    """Per bit position, per pair of positions, and at lags of signs from 1 to 4096."""
    ones, together, total = np.zeros(32), np.zeros((32, 32)), 0
    lagged = np.zeros(4096)
    for signs in chunks(noise, "sign"):
        rows = signs.reshape(-1, 32)
        ones += rows.sum(axis=0)
        together += rows.T @ rows
        total += len(rows)
        if total <= 2**24 // 32:
            padded = fft.rfft(signs, 2 * CHUNK)
            lagged += fft.irfft(padded * padded.conj(), 2 * CHUNK)[1:4097]
    fair(ones / total**0.5, "balance of the 32 bits")
    fair(together[np.triu_indices(32, 1)] / total**0.5, "pairs of bits of one word")
    pairs = 2**24 // CHUNK * (CHUNK - np.arange(1, 4097))
    fair(lagged / pairs**0.5, "signs at lags 1 … 4096")


def test_uniforms_are_equidistributed_alone_in_pairs_and_in_their_low_bits(noise: FusedNoise) -> None:
    """Chi-square in 2¹⁶ cells: by high bits, by low bits, by the high bytes of two numbers some way apart.

    The words of a stream are a permutation of all 2³², so 2²⁶ of them are drawn without replacement: the score is
    smaller by the share of words that are left.
    """
    tables = {name: np.zeros(2**16, np.int64) for name in ("high bits", "low bits", "lag 1", "lag 2", "lag 256")}
    for u in chunks(noise, "uniform"):
        whole = (u * 2**24).astype(np.int64)
        tables["high bits"] += np.bincount(whole >> 8, minlength=2**16)
        tables["low bits"] += np.bincount(whole & 0xFFFF, minlength=2**16)
        byte = whole >> 16
        for lag in (1, 2, 256):  # pairs that don't overlap
            pairs = byte.reshape(-1, 2, lag)
            cells = (pairs[:, 0] << 8 | pairs[:, 1]).reshape(-1)
            tables[f"lag {lag}"] += np.bincount(cells, minlength=2**16)
    for name, counts in tables.items():
        expected = counts.sum() / 2**16
        score = float(((counts - expected) ** 2 / expected).sum())
        score /= 1 - N / 2**32 if name.endswith("bits") else 1
        likely(float(stats.chi2.sf(score, 2**16 - 1)), f"chi-square of uniforms, {name}")


def test_coarse_numbers_are_equidistributed_alone_and_in_pairs(noise: FusedNoise) -> None:
    """Chi-square in all 2¹⁶ values; in the high and in the low bytes of two numbers some way apart."""
    lags = (1, 128, 256)
    tables = {name: np.zeros(2**16, np.int64) for name in ("values", *(f"{h} at {n}" for h in "01" for n in lags))}
    for u in chunks(noise, "coarse"):
        whole = (u * 2**16).astype(np.int64)
        tables["values"] += np.bincount(whole, minlength=2**16)
        for name, byte in (("0", whole & 0xFF), ("1", whole >> 8)):
            for lag in lags:
                pairs = byte.reshape(-1, 2, lag)
                tables[f"{name} at {lag}"] += np.bincount((pairs[:, 0] << 8 | pairs[:, 1]).reshape(-1), minlength=2**16)
    for name, counts in tables.items():
        expected = counts.sum() / 2**16
        score = float(((counts - expected) ** 2 / expected).sum())
        likely(float(stats.chi2.sf(score, 2**16 - 1)), f"chi-square of coarse numbers, {name}")


def test_sums_over_rows_columns_and_blocks_are_normal(noise: FusedNoise) -> None:
    """Sums over rows and columns of an (8192, 8192) matrix, scored against their law."""
    columns, rows = np.zeros(8192), []
    for first in range(0, N, CHUNK):
        z = noise.numbers("normal", BASE, first, (CHUNK // 8192, 8192)).astype(np.float64)
        columns += z.sum(axis=0)
        rows.append(z.sum(axis=1))
    for name, sums in (("columns", columns), ("rows", np.concatenate(rows))):
        scores = sums / 8192**0.5
        fair(scores, f"sums over {name}")
        likely(float(stats.kstest(scores, "norm").pvalue), f"sums over {name} are normal")


def test_the_first_numbers_of_successive_steps_are_independent_normals(noise: FusedNoise) -> None:
    """The first numbers of 2¹⁶ steps as one sequence: how one weight is perturbed over a run."""
    z = np.array([noise.numbers("normal", stream(Key(0, step, 0), "bias"), 0, (1,))[0] for step in range(2**16)])
    likely(float(stats.kstest(z, "norm").pvalue), "one weight over 65536 steps is normal")
    padded = fft.rfft(z.astype(np.float64), 2**17)
    lags = np.arange(1, 257)
    fair(fft.irfft(padded * padded.conj(), 2**17)[lags] / (2**16 - lags) ** 0.5, "one weight over steps, lags")
