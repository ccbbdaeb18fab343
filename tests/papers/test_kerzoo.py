"""KerZOO against a plain transcription of its published step (arXiv:2505.18886), and the moments of its kernels."""

from collections.abc import Callable
from math import erf, sqrt

import numpy as np
import pytest

from zoplat import Key
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, cubic, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import kerzoo
from zoplat_plugins.kerzoo import KERNELS, KerZOO

SEED, EPS, LR, QUERIES = 5, 1e-2, 2e-3, 3
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(toy: Toy, steps: int) -> list[float]:
    """The published step on the toy's own arrays, its constant C being 1; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []

    def moved(u: dict[str, np.ndarray], amount: float) -> float:
        return toy.loss(np.concatenate([(array + amount * u[name]).reshape(-1) for name, array in arrays.items()]))

    for step in range(steps):
        numbers = noise.normal((QUERIES,), Key(SEED, step, QUERIES), "numbers")
        update = {name: np.zeros(array.shape) for name, array in arrays.items()}
        for query in range(QUERIES):
            u = {
                name: noise.normal(array.shape, Key(SEED, step, query), name).astype(np.float64)
                for name, array in arrays.items()
            }
            r = erf(float(numbers[query]) / sqrt(2))
            up, down = moved(u, EPS * r), moved(u, -EPS * r)
            weight = (up - down) / (2 * EPS) * (15 / 4 * r * (5 - 7 * r**2))
            for name in arrays:
                update[name] += weight * u[name] / QUERIES
            recorded += [up, down]
        for name, array in arrays.items():
            array -= LR * update[name]
    return recorded


def estimator() -> KerZOO:
    return KerZOO(eps=EPS, queries=QUERIES, rule=Plain(lr=LR))


@pytest.mark.parametrize("make", [quadratic, two_layers])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_kerzoo_takes_the_published_steps(make: Callable[..., Toy], restore: Restore) -> None:
    plain, toy = make(), make(restore=restore)
    recorded = published_loop(plain, 30)
    answers = train(toy, estimator(), steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "removed"), [("linear", ()), ("cubic", (3,)), ("quintic", (3, 5))])
def test_a_kernel_keeps_the_first_moment_and_removes_those_it_says(name: str, removed: tuple[int, ...]) -> None:
    """By Gauss–Legendre quadrature, which is exact for these polynomials."""
    r, weights = np.polynomial.legendre.leggauss(12)
    kernel = KERNELS[name](r)
    moments = {power: float((weights * r**power * kernel).sum()) / 2 for power in (1, 3, 5)}
    assert moments[1] == pytest.approx(1, abs=1e-12)
    if name == "cubic":
        assert float((weights * (r * kernel) ** 2).sum()) / 2 == pytest.approx(2.5**2)
    assert [power for power in (3, 5) if abs(moments[power]) < 1e-12] == [*removed]


@pytest.mark.parametrize(("name", "is_biased"), [("linear", True), ("cubic", False)])
def test_the_bias_of_the_third_order_is_gone(name: str, is_biased: bool) -> None:
    """On L = Σ θ³ at ε = 0.5, along a fixed z: the slope at θ, or 3/5 · ε² Σ z³ beside it."""
    rng = np.random.default_rng(1)
    z, theta, eps = rng.normal(size=4), rng.normal(size=4), 0.5
    r = rng.uniform(-1, 1, 400_000)[:, None]
    difference = ((theta + eps * r * z) ** 3 - (theta - eps * r * z) ** 3).sum(axis=1) / (2 * eps)
    samples = difference * KERNELS[name](r[:, 0])
    error = samples.std() / len(samples) ** 0.5
    exact = (3 * theta**2 * z).sum()
    bias = 3 / 5 * eps**2 * (z**3).sum() if is_biased else 0.0
    assert abs(samples.mean() - exact - bias) < 5 * error
    assert not is_biased or abs(bias) > 20 * error


def test_the_radii_are_uniform() -> None:
    """What is made of the oracle's normal numbers, in ten classes by the chi-square test at 10⁻⁴."""
    oracle = cubic().oracle(0, seed=SEED)
    radii = [erf(x / sqrt(2)) for x in oracle.normals(10_000)]
    counts, _ = np.histogram(radii, bins=10, range=(-1, 1))
    assert counts.sum() == 10_000
    assert ((counts - 1000) ** 2 / 1000).sum() < 33.7  # of 9 degrees of freedom


def test_what_is_registered() -> None:
    assert kerzoo.zoplat_estimators()["kerzoo"].kernel == "cubic"
