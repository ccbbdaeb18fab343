"""ZO-Muon against a plain transcription of its published step (arXiv:2602.17155), and its properties."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Key, Noise, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import zo_muon
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.zo_muon import Projected, ZOMuon, matrix_sign

SEED, EPS, LR, RATIO, DECAY = 5, 1e-2, 5e-3, 0.1, 0.05
RANK, INTERVAL = 3, 4
SHAPES = {"one": (9, 6), "row": (1, 7), "bias": (8,)}
ATOL = 1e-9
"""Toys in float64 have float64 factors, of the same float32 numbers as the transcription has."""
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def orthogonal(noise: Noise, rows: int, rank: int, epoch: int, name: str) -> np.ndarray:
    """Q of the QR factorisation of a Gaussian, columns turned so that R has a positive diagonal."""
    q, r = np.linalg.qr(noise.normal((rank, rows), Key(SEED, epoch, -1), name, "P").astype(np.float64).T)
    return q * np.sign(np.diag(r))


def newton_schulz(g: np.ndarray) -> np.ndarray:
    """Muon's five steps of x ← ax + (bA + cA²)x with A = xxᵀ."""
    x = g / (np.linalg.norm(g) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def published_loop(toy: Toy, steps: int, queries: int, decay: float = 0.0) -> list[float]:
    """The published loop on the toy's own arrays, P in a table, one P a step; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    p: dict[str, np.ndarray] = {}
    recorded = []

    def loss(amount: float, z: dict[str, np.ndarray]) -> float:
        recorded.append(toy.loss(np.concatenate([(array + amount * z[n]).reshape(-1) for n, array in arrays.items()])))
        return recorded[-1]

    for step in range(steps):
        u, z = [], []
        for query in range(queries):
            key = Key(SEED, step, query)
            drawn = {}
            for name, array in arrays.items():
                rank = min(RANK, array.shape[0])
                if array.ndim == 1:
                    drawn[name] = noise.normal(array.shape, key, name).astype(np.float64)
                    continue
                if step % INTERVAL == 0:
                    p[name] = orthogonal(noise, array.shape[0], rank, step, name)
                drawn[name] = noise.normal((rank, array.shape[1]), key, name, "U").astype(np.float64)
            u.append(drawn)
            z.append({n: p[n] @ drawn[n] if a.ndim == 2 else drawn[n] for n, a in arrays.items()})
        if queries == 1:
            up, down = loss(+EPS, z[0]), loss(-EPS, z[0])
            c = [(up - down) / (2 * EPS)]
        else:
            base = loss(0.0, z[0])
            c = [(loss(EPS, direction) - base) / EPS for direction in z]
        for name, array in arrays.items():
            mean = sum(c[i] * u[i][name] for i in range(queries)) / queries
            if array.ndim == 2:
                array -= LR * (p[name] @ newton_schulz(mean) + decay * array)
            else:
                array -= LR * RATIO * mean
    return recorded


def estimator(queries: int = 3, lr: float = LR, decay: float = 0.0, interval: int = INTERVAL) -> ZOMuon:
    return ZOMuon(EPS, queries, RATIO, sampler=Projected(RANK, interval), rule=Plain(lr=lr, decay=decay))


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (3, 0.0), (3, DECAY)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_zo_muon_takes_the_steps_of_the_published_loop(queries: int, decay: float, restore: Restore) -> None:
    """25 steps in float64, P renewed seven times."""
    plain, toy = quadratic(SHAPES), quadratic(SHAPES, restore=restore)
    recorded = published_loop(plain, 25, queries, decay)
    answers = train(toy, estimator(queries, decay=decay), steps=25, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_zo_muon_takes_the_steps_of_the_published_loop_on_a_network() -> None:
    plain, toy = two_layers(), two_layers()
    published_loop(plain, 25, 3)
    train(toy, estimator(), steps=25, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


@pytest.mark.parametrize("shape", [(3, 20), (5, 5), (6, 2), (1, 9)])
def test_the_matrix_sign_keeps_the_singular_vectors_and_brings_the_values_near_one(shape: tuple[int, int]) -> None:
    """Muon's coefficients leave singular values between 0.65 and 1.25, not at 1, where none is far below the norm."""
    a = np.random.default_rng(2).normal(size=shape)
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    inside = u.T @ matrix_sign(7 * a) @ vt.T
    values = np.diag(inside)
    assert np.abs(inside - np.diag(values)).max() <= 1e-12
    assert values.min() >= 0.65
    assert values.max() <= 1.25
    np.testing.assert_allclose(matrix_sign(a), matrix_sign(7 * a), rtol=0, atol=1e-6)


def moved(toy: Toy, method: ZOMuon, step: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Takes a step; returns where the arrays of the first block were probed, and how it moved, from θ."""
    block = toy.space.blocks[0]
    toy.space.settle()
    start, probed, forward = block.array.copy(), [], toy.loss

    def watched(theta: Any) -> float:
        probed.append(block.array - start)
        return float(forward(theta))

    toy.loss = watched
    oracle = toy.oracle(step, seed=SEED)
    for estimate in method.estimate(oracle, None):
        method.rule.apply(estimate, oracle, None)
    toy.loss = forward
    toy.space.settle()
    return probed, [block.array - start]


def test_probes_and_steps_of_an_interval_share_one_subspace_also_when_it_is_renewed() -> None:
    """The released code's slip: on renewal each direction there has a P of its own."""
    toy, method = quadratic(SHAPES), estimator(queries=4)
    for step in range(3 * INTERVAL):
        p = orthogonal(ReferenceNoise(), 9, RANK, step - step % INTERVAL, "one")
        probed, steps = moved(toy, method, step)
        assert len(probed) == 5
        for difference in (*probed[1:], *steps):
            outside = difference - p @ p.T @ difference
            assert np.linalg.norm(outside) <= 1e-5 * np.linalg.norm(difference)


def test_a_step_of_a_matrix_has_about_equal_singular_values_of_the_step_size() -> None:
    toy, method = quadratic(SHAPES), estimator(queries=4)
    for step in range(6):
        _, [difference] = moved(toy, method, step)
        values = np.linalg.svd(difference, compute_uv=False) / LR
        assert (values[:RANK] > 0.4).all()
        assert values[0] < 1.3
        assert values[RANK] < 1e-4


def test_with_one_direction_only_the_sign_of_the_slope_counts_for_matrices() -> None:
    toy, scaled = quadratic({"w": (9, 6)}), quadratic({"w": (9, 6)})
    loss = scaled.loss
    scaled.loss = lambda theta: 50 * loss(theta) + 3
    for one in (toy, scaled):
        train(one, estimator(queries=1), steps=20)
    np.testing.assert_allclose(toy.theta, scaled.theta, rtol=0, atol=1e-5)


def test_vectors_take_plain_steps() -> None:
    toy, method = quadratic(SHAPES), estimator()
    [estimate] = method.estimate(toy.oracle(0, seed=SEED), None)
    base, *ups = estimate.losses
    drawn = [toy.entries(z)[-8:] for z in toy.oracle(0, seed=SEED).draw(Gaussian(), 3)]
    plain = sum((up - base) / EPS * z for up, z in zip(ups, drawn, strict=True)) / 3
    np.testing.assert_allclose(toy.entries(estimate.direction)[-8:], RATIO * plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("leading", [0, 2])
def test_the_trace_of_a_step_has_the_slopes_of_its_probes(queries: int, leading: int) -> None:
    """Not one more for the step of the matrices, which has the name of a probe under another law."""
    toy, method = quadratic(SHAPES), dataclasses.replace(estimator(queries), leading=leading)
    [estimate] = method.estimate(toy.oracle(0, seed=SEED), method.init(toy.space))
    losses = estimate.losses
    slopes = [(up - losses[0]) / EPS for up in losses[1:]] if queries > 1 else [(losses[0] - losses[1]) / (2 * EPS)]
    assert estimate.slopes == slopes


@pytest.mark.parametrize("queries", [1, 4])
def test_equal_losses_make_no_step(queries: int) -> None:
    toy = linear()
    toy.loss = lambda theta: 0.3
    [estimate] = estimator(queries).estimate(toy.oracle(0), None)
    assert estimate.direction == ZERO


def test_the_mean_of_a_direction_seen_along_itself_is_the_claimed_share_of_the_gradient(
    noise: Noise, unbiased: Check
) -> None:
    """8,000 draws: P U has a variance of r/m; on vectors and on matrices of few rows 1."""
    m, n = 6, 4
    gradient = np.random.default_rng(3).normal(size=(m, n))
    z = np.empty((8000, m, n))
    for k in range(len(z)):
        u = noise.normal((RANK, n), Key(SEED, k, 0), "w", "U").astype(np.float64)
        z[k] = orthogonal(noise, m, RANK, k, "w") @ u
    toy, law = linear({"w": (m, n)}), Projected(RANK, interval=1)
    drawn = [toy.entries(toy.space.draw(law, Key(SEED, k, 0))).reshape(m, n) for k in range(3)]
    np.testing.assert_allclose(drawn, z[:3], rtol=0, atol=ATOL)
    unbiased((z * gradient).sum(axis=(1, 2))[:, None] * z.reshape(-1, m * n), 0.5 * gradient.reshape(-1), "mean")
    assert [law.variance(shape) for shape in ((m, n), (2, 9), (7,))] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("queries", [1, 4])
def test_a_step_costs_what_is_claimed(queries: int) -> None:
    """N + 1 forward passes, 2 for one direction, as many over θ, and no state."""
    toy, method = two_layers(), estimator(queries)
    answers = train(toy, method, steps=20)
    assert [len(step) for step in answers] == [2 if queries == 1 else 5] * 20
    assert toy.space.passes_over_weights / 20 == pytest.approx(2 if queries == 1 else 5, rel=0.05)
    assert not toy.space.buffers


def test_zo_muon_replays_bit_for_bit_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(lr=0.03), steps=60)
    train(again, estimator(lr=0.03), steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


def test_the_registered_values() -> None:
    registered = zo_muon.zoplat_estimators()["zo-muon"]
    assert registered == ZOMuon(queries=4, sampler=Projected(rank=64, interval=100), rule=registered.rule)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": 0}, r"queries must lie in \[1, 1e\+06\], got 0"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"vector_ratio": -1.0}, "vector_ratio must be 0 or more, got -1.0"),
        ({"sampler": Gaussian()}, "must be 'projected', got Gaussian"),
    ],
)
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ZoplatError, match=message):
        ZOMuon(**fields)
