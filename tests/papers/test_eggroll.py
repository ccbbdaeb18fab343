"""EGGROLL against a plain transcription of its published update (arXiv:2511.16652), and its properties."""

from collections.abc import Callable

import numpy as np
import pytest

from zoplat import ZERO, Key, Noise, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import eggroll
from zoplat_plugins.eggroll import OuterProducts
from zoplat_plugins.es import ES

SEED, SIGMA, LR, FLOOR, RANK = 5, 0.05, 0.02, 1e-5, 2
ATOL = 1e-9
"""Toys in float64 have float64 factors, of the same float32 numbers as the transcription has."""
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(toy: Toy, steps: int, members: int) -> list[float]:
    """The code's loop: members 2p and 2p + 1 are ±, W ← W + η√N · mean(f̂σE); returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []
    for step in range(steps):
        kicks = []
        for pair in range(members // 2):
            key, kick = Key(SEED, step, pair), {}
            for name, array in arrays.items():
                if array.ndim == 1:
                    kick[name] = noise.normal(array.shape, key, name).astype(np.float64)
                else:
                    a = noise.normal((array.shape[0], RANK), key, name, "A").astype(np.float64)
                    b = noise.normal((array.shape[1], RANK), key, name, "B").astype(np.float64)
                    kick[name] = a @ b.T / np.sqrt(RANK)
            kicks += [kick, {name: -e for name, e in kick.items()}]
        fitness = np.array(
            [
                -toy.loss(np.concatenate([(a + SIGMA * kick[n]).reshape(-1) for n, a in arrays.items()]))
                for kick in kicks
            ]
        )
        scores = (fitness - fitness.mean()) / np.sqrt(fitness.var() + FLOOR)
        for name, array in arrays.items():
            update = sum(score * SIGMA * kick[name] for score, kick in zip(scores, kicks, strict=True)) / members
            array += LR * np.sqrt(members) * update
        recorded += [*-fitness]
    return recorded


def estimator(pairs: int = 3, lr: float = LR * 6**0.5 * SIGMA, rank: int = RANK) -> ES:
    """With the code's step size turned into ours, η√N σ."""
    rule = Plain(lr=lr)
    return ES(SIGMA, pairs, is_antithetic=True, floor=FLOOR, sampler=OuterProducts(rank), rule=rule)


@pytest.mark.parametrize("make", [two_layers, quadratic])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_eggroll_takes_the_steps_of_the_published_loop(make: Callable[..., Toy], restore: Restore) -> None:
    """25 steps in float64, six members, the code's step size converted."""
    plain, toy = make(), make(restore=restore)
    recorded = published_loop(plain, 25, 6)
    answers = train(toy, estimator(), steps=25, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_what_is_registered_is_es_in_pairs_with_outer_products() -> None:
    registered = eggroll.zoplat_estimators()["eggroll"]
    law = eggroll.zoplat_samplers()["outer-products"]
    assert registered == ES(queries=16, is_antithetic=True, floor=1e-5, sampler=law, rule=registered.rule)


def test_one_pair_steps_along_its_own_matrix() -> None:
    """With N = 2 and no floor the step is ∓A Bᵀ/√r, whatever the losses."""
    toy = linear({"w": (6, 5)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    method = ES(SIGMA, 1, is_antithetic=True, sampler=OuterProducts(RANK))
    [z] = [toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(method.sampler, 1)]
    [estimate] = method.estimate(toy.oracle(0, seed=SEED), None)
    np.testing.assert_allclose(toy.entries(estimate.direction), np.sign(gradient @ z) * z, rtol=1e-6)


def test_adding_a_constant_changes_nothing_and_equal_losses_make_no_step() -> None:
    toy, other = two_layers(), two_layers()
    loss = other.loss
    other.loss = lambda theta: loss(theta) + 8
    for one in (toy, other):
        train(one, estimator(), steps=10)
    np.testing.assert_allclose(toy.theta, other.theta, rtol=0, atol=1e-8)
    toy.loss = lambda theta: 0.1
    [estimate] = estimator().estimate(toy.oracle(0), None)
    assert estimate.direction == ZERO


def test_the_floor_makes_small_spreads_small_steps() -> None:
    """Losses ±s around their mean: scores s/√(s² + 10⁻⁵)."""
    toy, recorded = linear({"w": (6, 5)}), iter([2.001, 1.999])
    toy.loss = lambda theta: next(recorded)
    [estimate] = estimator(pairs=1).estimate(toy.oracle(0), None)
    [(_, coefficient)] = list(estimate.direction)
    assert coefficient == pytest.approx(1e-3 / (1e-6 + 1e-5) ** 0.5)


@pytest.mark.parametrize("rank", [1, 4])
def test_entries_have_unit_variance_for_every_rank(noise: Noise, unbiased: Check, rank: int) -> None:
    """4,000 draws; and the mean of ⟨G, E⟩E is G."""
    m, n = 5, 4
    gradient = np.random.default_rng(3).normal(size=(m, n))
    e = np.empty((4000, m, n))
    for k in range(4000):
        a = noise.normal((m, rank), Key(SEED, 0, k), "w", "A").astype(np.float64)
        e[k] = a @ noise.normal((n, rank), Key(SEED, 0, k), "w", "B").astype(np.float64).T / rank**0.5
    toy = linear({"w": (m, n)})
    drawn = [toy.entries(z).reshape(m, n) for z in toy.oracle(0, seed=SEED).draw(OuterProducts(rank), 3)]
    np.testing.assert_allclose(drawn, e[:3], rtol=0, atol=ATOL)
    unbiased((e**2).mean(axis=(1, 2)), 1.0, "variance")
    estimates = (e * gradient).sum(axis=(1, 2))[:, None, None] * e
    unbiased(estimates.reshape(-1, m * n), gradient.reshape(-1), "mean estimate")


def test_both_factors_are_fresh_for_every_pair_and_step_and_the_step_has_a_rank_of_n_r_over_two() -> None:
    toy = quadratic({"w": (12, 10)})
    start = toy.held.reshape(12, 10)
    train(toy, estimator(pairs=2, lr=0.01), steps=1)
    first = toy.theta.reshape(12, 10)
    train(toy, estimator(pairs=2, lr=0.01), steps=1, seed=1)
    assert rank_of(first - start) == 2 * RANK
    assert rank_of(toy.theta.reshape(12, 10) - start) == 4 * RANK


def rank_of(matrix: np.ndarray) -> int:
    """Numerical rank, at 1e-5 of the largest singular value."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-5 * values[0]).sum())


def test_eggroll_replays_bit_for_bit_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(lr=0.03), steps=60)
    train(again, estimator(lr=0.03), steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ZoplatError, match="rank must be at least 1, got 0"):
        OuterProducts(rank=0)
