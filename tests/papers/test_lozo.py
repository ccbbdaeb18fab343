"""LOZO against a plain transcription of Algorithm 1 of arXiv:2410.07698, and properties of the method."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zoplat import Key, Noise
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import lozo
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, DECAY = 5, 1e-2, 1e-3, 0.05
RANK, INTERVAL = 2, 7
ATOL = 1e-9
"""Toys in float64 have float64 factors, of the same float32 numbers as the transcription has."""
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(
    toy: Toy,
    steps: int,
    interval: int,
    lr: float,
    rank: int = RANK,
    decay: float = 0.0,
    over_rank: bool = False,
) -> list[float]:
    """The loop of the paper on the toy's own arrays, V kept in a table between renewals; returns the losses.

    With `over_rank` the step has the paper's factor 1/r.
    """
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    kept: dict[str, np.ndarray] = {}
    recorded = []

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        z = {}
        for name, array in arrays.items():
            key = Key(SEED, step, 0)
            if array.ndim == 1:
                z[name] = noise.normal(array.shape, key, name).astype(np.float64)
                continue
            if step % interval == 0:
                kept[name] = noise.normal((array.shape[1], rank), key.at(step), name, "V").astype(np.float64)
            u = noise.normal((array.shape[0], rank), key, name, "U").astype(np.float64)
            z[name] = u @ kept[name].T
        for name, array in arrays.items():
            array += EPS * z[name]
        up = loss()
        for name, array in arrays.items():
            array -= 2 * EPS * z[name]
        down = loss()
        for name, array in arrays.items():
            array += EPS * z[name]
        g = (up - down) / (2 * EPS)
        for name, array in arrays.items():
            share = 1 / rank if over_rank and array.ndim == 2 else 1.0
            if array.ndim == 2:
                array *= 1 - lr * decay
            array -= lr * share * g * z[name]
        recorded += [up, down]
    return recorded


def estimator(interval: int = INTERVAL, lr: float = LR, decay: float = 0.0, rank: int = RANK) -> MeZO:
    return MeZO(eps=EPS, sampler=LowRank(rank=rank, interval=interval), rule=Plain(lr=lr, decay=decay))


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("interval", [1, INTERVAL, 50])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_lozo_takes_the_steps_of_the_published_loop(interval: int, decay: float, restore: Restore) -> None:
    """120 steps in float64, V renewed 120, 18 and 3 times."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 120, interval, LR, decay=decay)
    answers = train(toy, estimator(interval, decay=decay), steps=120, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_what_is_registered_is_mezo_with_a_low_rank_sampler() -> None:
    registered = lozo.zoplat_estimators()["lozo"]
    assert isinstance(registered, MeZO)
    assert registered == MeZO(sampler=lozo.zoplat_samplers()["low-rank"], rule=registered.rule)
    assert (registered.sampler, registered.rule.lr) == (LowRank(rank=2, interval=50), 1e-7)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_lozo_replays_bit_for_bit_across_renewals_without_keeping_v() -> None:
    """For LOZO: 200 steps of float32 from the answers alone."""
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    answers = train(run, estimator(interval=13, decay=DECAY), steps=200)
    train(again, estimator(interval=13, decay=DECAY), steps=200, answers=answers)
    assert again.bits == run.bits


M, N = 9, 6


def many(noise: Noise, count: int, rank: int, one_v: bool) -> np.ndarray:
    """Z = U Vᵀ of many steps by their addresses, (count, M, N); a new V each step, or that of step 0."""
    z = np.empty((count, M, N))
    for step in range(count):
        key = Key(SEED, step, 0)
        u = noise.normal((M, rank), key, "w", "U").astype(np.float64)
        z[step] = u @ noise.normal((N, rank), key.at(0 if one_v else step), "w", "V").astype(np.float64).T
    return z


@pytest.mark.parametrize("one_v", [False, True])
def test_the_draws_used_for_averages_below_are_those_of_the_platform(noise: Noise, one_v: bool) -> None:
    toy = linear({"w": (M, N)})
    law = LowRank(rank=3, interval=1000 if one_v else 1)
    drawn = [toy.entries(toy.space.draw(law, Key(SEED, step, 0))).reshape(M, N) for step in range(5)]
    np.testing.assert_allclose(np.stack(drawn), many(noise, 5, 3, one_v), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_mean_estimate_is_r_times_the_gradient_and_its_second_moment_is_known(
    noise: Noise, unbiased: Check, rank: int
) -> None:
    """30,000 draws: E⟨G, Z⟩Z = rG; with 1/r, E‖ĝ‖² = (mn + 2 + 2(m + n + 1)/r)‖G‖²."""
    gradient = np.random.default_rng(3).normal(size=(M, N))
    z = many(noise, 30_000, rank, one_v=False)
    estimates = (z * gradient).sum(axis=(1, 2))[:, None, None] * z
    unbiased(estimates.reshape(-1, M * N), rank * gradient.reshape(-1), "mean")
    expected = (M * N + 2 + 2 * (M + N + 1) / rank) * float((gradient**2).sum())
    unbiased((estimates**2).sum(axis=(1, 2)) / rank**2, expected, "second moment")


def test_within_an_interval_the_mean_estimate_is_the_gradient_seen_through_v(noise: Noise, unbiased: Check) -> None:
    """30,000 draws of U for one V: with 1/r the mean is G V Vᵀ / r."""
    gradient = np.random.default_rng(3).normal(size=(M, N))
    z = many(noise, 30_000, 3, one_v=True)
    estimates = (z * gradient).sum(axis=(1, 2))[:, None, None] * z / 3
    v = noise.normal((N, 3), Key(SEED, 0, -1), "w", "V").astype(np.float64)
    unbiased(estimates.reshape(-1, M * N), (gradient @ v @ v.T / 3).reshape(-1), "mean for one V")


def test_on_every_step_each_tensor_moves_along_the_line_it_was_probed_on() -> None:
    """|cos| = 1 to 1e-9 over 30 steps, V renewed every 7; probe and step are seen in the arrays."""
    toy = quadratic()
    method = estimator()
    for step in range(30):
        start = [block.array.copy() for block in toy.space.blocks]
        oracle = toy.oracle(step, seed=SEED)
        probed: list[list[np.ndarray]] = []
        forward = toy.loss

        def watched(theta: Any, probed: Any = probed, forward: Any = forward) -> float:
            probed.append([block.array.copy() for block in toy.space.blocks])
            return float(forward(theta))

        toy.loss = watched
        for estimate in method.estimate(oracle, None):
            method.rule.apply(estimate, oracle, None)
        toy.loss = forward
        toy.space.settle()
        for index, block in enumerate(toy.space.blocks):
            z = (probed[0][index] - start[index]).reshape(-1)
            moved = (block.array - start[index]).reshape(-1)
            cosine = z @ moved / np.linalg.norm(z) / np.linalg.norm(moved)
            assert abs(cosine) == pytest.approx(1, abs=1e-9), f"step {step}, {block.name}: cos = {cosine}"


def singular(matrix: np.ndarray) -> int:
    """Numerical rank, at 1e-6 of the largest singular value: U Vᵀ is rounded to float32 entry by entry."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-6 * values[0]).sum())


def test_the_steps_of_an_interval_stay_in_the_span_of_v_and_two_intervals_have_twice_the_rank() -> None:
    toy = quadratic({"w": (12, 10), "b": (5,)})
    array, method = toy.space.blocks[0].array, estimator()
    places = [array.copy()]
    for step in range(2 * INTERVAL):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in method.estimate(oracle, None):
            method.rule.apply(estimate, oracle, None)
        if step % INTERVAL == INTERVAL - 1:
            toy.space.settle()
            places.append(array.copy())
    for epoch in (0, 1):
        moved = places[epoch + 1] - places[epoch]
        assert singular(moved) == RANK
        v = ReferenceNoise().normal((10, RANK), Key(SEED, epoch * INTERVAL, -1), "w", "V").astype(np.float64)
        q = np.linalg.qr(v)[0]
        assert np.linalg.norm(moved - moved @ q @ q.T) <= 1e-6 * np.linalg.norm(moved)
    assert singular(places[2] - places[0]) == 2 * RANK


def test_v_changes_at_multiples_of_the_interval_and_u_at_every_step() -> None:
    [block] = linear({"w": (8, 6)}).space.blocks
    law, noise = LowRank(rank=2, interval=INTERVAL), ReferenceNoise()
    us, vs = [], []
    for step in range(4 * INTERVAL):
        tile = next(block.tiles(1000))
        u, v = law.factors(tile, Key(SEED, step, 0), noise) or (None, None)
        us.append(u)
        vs.append(v)
    for step in range(1, len(vs)):
        assert (vs[step] != vs[step - 1]).all() == (step % INTERVAL == 0)
        assert (us[step] != us[step - 1]).any()


def test_directions_of_one_step_share_v_and_not_u() -> None:
    [block] = linear({"w": (8, 6)}).space.blocks
    tile, law, noise = next(block.tiles(1000)), LowRank(), ReferenceNoise()
    (u, v), (other_u, other_v) = (law.factors(tile, Key(SEED, 3, draw), noise) or ((), ()) for draw in (0, 1))
    assert (v == other_v).all()
    assert (u != other_u).any()


def test_vectors_get_the_dense_gaussian_and_matrices_of_any_shape_low_rank() -> None:
    """A vector's z is MeZO's to the bit; matrices, embeddings and single rows too, have rank r."""
    toy = linear({"embedding": (40, 8), "row": (1, 9), "bias": (30,)})
    key = Key(SEED, 4, 0)
    low, dense = (toy.entries(toy.space.draw(law, key)) for law in (LowRank(rank=2), Gaussian()))
    np.testing.assert_array_equal(low[-30:], dense[-30:])
    assert singular(low[:320].reshape(40, 8)) == 2
    assert (low[:-30] != dense[:-30]).all()


def test_vectors_have_unit_variance(noise: Noise) -> None:
    """2,000 draws of 30 entries, mean square within five standard errors of 1."""
    z = np.stack([noise.normal((30,), Key(SEED, step, 0), "bias") for step in range(2000)]).astype(np.float64)
    assert abs((z**2).mean() - 1) <= 5 * (2 / z.size) ** 0.5


@pytest.mark.parametrize("rank", [1, 4])
def test_the_papers_step_size_over_r_is_the_codes_step_size(rank: int) -> None:
    """Α with 1/r in the estimate, or η = α/r without, on matrices."""
    shapes = {"one": (6, 5), "two": (7, 3)}
    plain, toy = quadratic(shapes), quadratic(shapes)
    alpha = 4e-3
    published_loop(plain, 120, INTERVAL, lr=alpha, rank=rank, over_rank=True)
    train(toy, estimator(lr=alpha / rank, rank=rank), steps=120, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)
    assert toy.loss(toy.theta) < 0.9 * toy.loss(quadratic(shapes).theta)
