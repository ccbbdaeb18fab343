"""ZO-Muon with `leading` against a plain transcription of ZO-MOPI's step (arXiv:2605.09034), and its properties."""

from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Key, ZoplatError
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.zo_muon import Projected, ZOMuon

SEED, EPS, LR, RATIO = 5, 1e-2, 5e-3, 0.1
RANK, INTERVAL, LEADING, QUERIES = 4, 5, 2, 3
SHAPES = {"one": (9, 6), "flat": (3, 7), "bias": (8,)}


def estimator(beta: float = 0.0, lr: float = LR, leading: int = LEADING) -> ZOMuon:
    return ZOMuon(EPS, QUERIES, RATIO, leading, beta, Projected(RANK, INTERVAL), Plain(lr=lr))


def frame(shape: tuple[int, int], step: int, name: str, what: str) -> np.ndarray:
    """Q of the QR factorisation of a named Gaussian's transpose, columns turned so that R has a positive diagonal."""
    key = Key(SEED, step - step % INTERVAL, -1)
    q, r = np.linalg.qr(ReferenceNoise().normal(shape, key, name, what).astype(np.float64).T)
    return q * np.sign(np.diag(r))


def published_loop(toy: Toy, steps: int, beta: float) -> None:
    """The published loop on the toy's own arrays, V as columns as in the paper, M carried over to each new P."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    p: dict[str, np.ndarray] = {}
    m: dict[str, np.ndarray] = {}
    v: dict[str, np.ndarray] = {}

    def loss(z: dict[str, np.ndarray]) -> float:
        return toy.loss(np.concatenate([(array + EPS * z[name]).reshape(-1) for name, array in arrays.items()]))

    for step in range(steps):
        before = dict(p)
        for name, array in arrays.items():
            if array.ndim == 2 and step % INTERVAL == 0:
                rank = min(RANK, array.shape[0])
                p[name] = frame((rank, array.shape[0]), step, name, "P")
                v[name] = frame((LEADING, array.shape[1]), step, name, "V")
        u = [
            {
                name: noise.normal((p[name].shape[1], array.shape[1]), Key(SEED, step, i), name, "U").astype(float)
                if array.ndim == 2
                else noise.normal(array.shape, Key(SEED, step, i), name).astype(float)
                for name, array in arrays.items()
            }
            for i in range(QUERIES)
        ]
        base = loss({name: 0.0 * array for name, array in arrays.items()})
        points = [{name: p[name] @ b if name in p else b for name, b in drawn.items()} for drawn in u]
        slopes = [(loss(point) - base) / EPS for point in points]
        for name, array in arrays.items():
            g = sum(slope * drawn[name] for slope, drawn in zip(slopes, u, strict=True)) / QUERIES
            if array.ndim == 1:
                array -= LR * RATIO * g
                continue
            if name not in m:
                m[name] = g
            else:
                m[name] = beta * p[name].T @ before[name] @ m[name] + (1 - beta) * g
            v[name], _ = np.linalg.qr(m[name].T @ (m[name] @ v[name]))
            mv = m[name] @ v[name]
            array -= LR * p[name] @ (mv / np.linalg.norm(mv, axis=0)) @ v[name].T


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_the_steps_are_those_of_the_published_loop(beta: float, restore: Any) -> None:
    """23 steps in float64, P renewed four times."""
    plain, toy = quadratic(SHAPES), quadratic(SHAPES, restore=restore)
    published_loop(plain, 23, beta)
    train(toy, estimator(beta), steps=23, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-8)


def test_a_step_of_a_matrix_has_k_singular_values_of_about_the_step_size() -> None:
    toy = quadratic({"w": (9, 6)})
    before = toy.theta.copy()
    train(toy, estimator(), steps=1, seed=SEED)
    values = np.linalg.svd((toy.theta - before).reshape(9, 6), compute_uv=False) / LR
    assert values[LEADING] < 1e-4
    assert values[0] < 1.5
    assert np.sum(values**2) == pytest.approx(LEADING, rel=1e-5)  # columns of length 1


def test_many_sweeps_over_one_mean_come_to_its_leading_singular_directions() -> None:
    """What one round of power iteration a step is for: with the same Ĝ again and again, O = U₁…ₖ V₁…ₖᵀ."""
    toy, method = quadratic({"w": (9, 6)}), estimator()
    state = method.init(toy.space)
    assert state
    terms = tuple((Key(SEED, 1, i), c) for i, c in enumerate([0.8, -2.0, 0.3]))
    for _ in range(200):
        method._iterate(toy.oracle(1, seed=SEED), state, terms)
    g: Any = sum(c * toy.noise.normal((RANK, 6), key, "w", "U") for key, c in terms)
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    v = state.v.arrays["w"]
    found = g @ v.T / np.linalg.norm(g @ v.T, axis=0) @ v
    np.testing.assert_allclose(found, u[:, :LEADING] @ vt[:LEADING], rtol=0, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 4])
def test_equal_losses_make_no_step_and_leave_the_mean_alone(queries: int) -> None:
    toy = linear()
    toy.loss = lambda theta: 0.3
    method = ZOMuon(EPS, queries, RATIO, LEADING, 0.5, Projected(RANK, INTERVAL))
    state = method.init(toy.space)
    [estimate] = method.estimate(toy.oracle(0), state)
    assert estimate.direction == ZERO
    assert state
    assert state.step == -1


def test_a_step_costs_what_is_claimed() -> None:
    """N + 1 passes over θ, none for M and V, which have r + k numbers for each column of a matrix."""
    toy = two_layers()
    train(toy, estimator(0.5), steps=20)
    assert toy.space.passes_over_weights / 20 == pytest.approx(QUERIES + 1, rel=0.05)
    m, v = toy.space.buffers
    matrices = [block for block in toy.space.blocks if len(block.shape) == 2]
    assert [m.arrays[b.name].shape for b in matrices] == [(min(RANK, b.shape[0]), b.shape[1]) for b in matrices]
    assert [v.arrays[b.name].shape for b in matrices] == [(min(LEADING, b.shape[0]), b.shape[1]) for b in matrices]


def test_it_replays_bit_for_bit_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(0.5, lr=0.03), steps=60)
    train(again, estimator(0.5, lr=0.03), steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


def test_a_matrix_of_fewer_columns_than_directions_has_as_many_as_it_can() -> None:
    toy = quadratic({"w": (9, 2)})
    train(toy, estimator(leading=4), steps=12)
    assert np.isfinite(toy.theta).all()


def test_a_mean_without_leading_is_refused() -> None:
    with pytest.raises(ZoplatError, match="beta is that of a running mean: set leading too"):
        ZOMuon(beta=0.5)
