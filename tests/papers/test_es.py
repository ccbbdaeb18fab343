"""Evolution strategies against transcriptions of both published loops (arXiv:1703.03864, 2509.24372)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Key, Noise, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.es import ES
from zoplat_plugins.mezo import MeZO

SEED, SIGMA, LR = 5, 0.05, 1e-2
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def drawn(toy: Toy, step: int, count: int) -> np.ndarray:
    """The directions of a step, (count, d)."""
    noise = ReferenceNoise()
    return np.stack(
        [
            np.concatenate(
                [noise.normal(block.shape, Key(SEED, step, k), block.name).reshape(-1) for block in toy.space.blocks]
            )
            for k in range(count)
        ]
    ).astype(np.float64)


def place(toy: Toy, theta: np.ndarray) -> None:
    at = 0
    for block in toy.space.blocks:
        block.array[:] = theta[at : at + block.size].reshape(block.shape)
        at += block.size


def fine_tuning_loop(toy: Toy, steps: int, population: int) -> list[float]:
    """ES for language models: single members, rewards standardised, θ ← θ + α · mean(f̂ε); returns the losses."""
    theta, recorded = toy.held, []
    for step in range(steps):
        noises = drawn(toy, step, population)
        rewards = np.array([-toy.loss(theta + SIGMA * noise) for noise in noises])
        scores = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
        theta = theta + LR * (scores[:, None] * noises).mean(axis=0)
        recorded += [*-rewards]
    place(toy, theta)
    return recorded


def ranked_loop(toy: Toy, steps: int, pairs: int) -> list[float]:
    """OpenAI's ES with plain steps: pairs, centred ranks of all returns, G = (1/2n) Σ (u⁺ − u⁻)ε."""
    theta, recorded = toy.held, []
    for step in range(steps):
        noises = drawn(toy, step, pairs)
        returns = np.array([[-toy.loss(theta + sign * SIGMA * noise) for sign in (1, -1)] for noise in noises])
        ranks = np.empty(2 * pairs)
        ranks[returns.reshape(-1).argsort()] = np.arange(2 * pairs)
        u = (ranks / (2 * pairs - 1) - 0.5).reshape(returns.shape)
        theta = theta + LR * ((u[:, 0] - u[:, 1]) @ noises) / (2 * pairs)
        recorded += [*-returns.reshape(-1)]
    place(toy, theta)
    return recorded


def estimator(**fields: Any) -> ES:
    return ES(**{"eps": SIGMA, "queries": 6, "rule": Plain(lr=LR), **fields})


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_es_takes_the_steps_of_the_loop_for_language_models(restore: Restore) -> None:
    """30 steps in float64; the loop's 1e-8 in the deviation is 1e-6 of the least deviation seen."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = fine_tuning_loop(plain, 30, 6)
    answers = train(toy, estimator(), steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_es_in_pairs_with_ranks_takes_the_steps_of_the_older_loop(restore: Restore) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = ranked_loop(plain, 30, 4)
    answers = train(toy, estimator(queries=4, is_antithetic=True, shaping="ranks"), steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_unshaped_pairs_are_mezo_with_several_directions() -> None:
    toy, plain = two_layers(), two_layers()
    train(toy, estimator(queries=3, is_antithetic=True, shaping="none"), steps=20, seed=SEED)
    train(plain, MeZO(eps=SIGMA, queries=3, rule=Plain(lr=LR)), steps=20, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.theta, rtol=0, atol=1e-10)


def step_of(method: ES, change: Callable[[float], float], toy: Toy | None = None) -> np.ndarray:
    """The estimate of one step when the loss is passed through `change`."""
    toy = toy or two_layers()
    loss = toy.loss
    toy.loss = lambda theta: change(loss(theta))
    [estimate] = method.estimate(toy.oracle(3, seed=SEED), None)
    return toy.entries(estimate.direction)


@pytest.mark.parametrize("pairs", [False, True])
def test_z_scores_ignore_the_unit_of_the_loss_and_its_zero(pairs: bool) -> None:
    method = estimator(is_antithetic=pairs)
    one, other = (step_of(method, change) for change in (lambda loss: loss, lambda loss: 7 * loss - 100))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pairs", [False, True])
def test_ranks_ignore_any_increasing_transform_of_the_loss(pairs: bool) -> None:
    method = estimator(is_antithetic=pairs, shaping="ranks")
    one, other = (step_of(method, change) for change in (lambda loss: loss, lambda loss: loss**3 + np.exp(loss)))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shaping", ["z-scores", "ranks"])
@pytest.mark.parametrize("pairs", [False, True])
def test_equal_losses_make_no_step(shaping: Any, pairs: bool) -> None:
    """0.1 + 0.1 + … over six is not 0.1, so a mean alone would not do."""
    toy = linear()
    toy.loss = lambda theta: 0.1
    [estimate] = estimator(shaping=shaping, is_antithetic=pairs).estimate(toy.oracle(0), None)
    assert estimate.direction == ZERO


def scored(losses: Sequence[float], shaping: Any) -> list[float]:
    """The score of each member, read off the estimate's coefficients."""
    toy, remaining = linear(), iter(losses)
    toy.loss = lambda theta: next(remaining)
    [estimate] = estimator(queries=len(losses), shaping=shaping).estimate(toy.oracle(0, seed=SEED), None)
    terms = {draw.key.draw: c * len(losses) for draw, c in estimate.direction}
    return [terms.get(k, 0.0) for k in range(len(losses))]


def test_members_with_equal_losses_share_their_ranks() -> None:
    assert scored([0.5, 0.1, 0.5, 0.9], "ranks") == pytest.approx([0.0, -0.5, 0.0, 0.5])
    assert scored([3.0, 1.0], "ranks") == pytest.approx([0.5, -0.5])


def test_scores_by_hand() -> None:
    """Losses 1, 2, 3, 6: mean 3, variance over N 3.5."""
    assert scored([1, 2, 3, 6], "z-scores") == pytest.approx(np.array([-2, -1, 0, 3]) / 3.5**0.5)
    assert scored([1, 2, 3, 6], "none") == pytest.approx(np.array([1, 2, 3, 6]) / SIGMA)


def test_unshaped_single_members_have_the_gradient_for_their_mean(noise: Noise, unbiased: Check) -> None:
    """20,000 draws on a linear loss with a constant, which adds to the spread and not to the mean."""
    toy = linear({"w": (6,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    z = np.stack([noise.normal((6,), Key(SEED, 0, draw), "w") for draw in range(20_000)]).astype(np.float64)
    losses = np.array([toy.loss(toy.theta + 10 * row) for row in z])
    [platform] = estimator(eps=10.0, queries=5, shaping="none").estimate(toy.oracle(0, seed=SEED), None)
    samples = losses[:, None] / 10 * z
    np.testing.assert_allclose(toy.entries(platform.direction), samples[:5].mean(axis=0), rtol=1e-6)
    unbiased(samples, gradient, "mean")


@pytest.mark.parametrize("pairs", [False, True])
def test_a_step_costs_what_is_claimed(pairs: bool) -> None:
    """One forward pass and one over θ for each member, and no state."""
    toy, method = two_layers(), estimator(is_antithetic=pairs)
    answers = train(toy, method, steps=10)
    assert [len(step) for step in answers] == [12 if pairs else 6] * 10
    assert toy.space.passes_over_weights / 10 == pytest.approx(12 if pairs else 6, rel=0.05)
    assert not toy.space.buffers


@pytest.mark.parametrize("shaping", ["z-scores", "ranks"])
def test_es_replays_bit_for_bit_and_learns(shaping: Any) -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before, method = run.loss(run.theta), estimator(shaping=shaping, rule=Plain(lr=0.03, decay=0.05))
    answers = train(run, method, steps=60)
    train(again, method, steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": 1}, "queries must be at least 2, got 1"),
        ({"queries": 0, "is_antithetic": True}, r"queries must lie in \[1, 1e\+06\], got 0"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"floor": -1.0}, "floor must be 0 or more, got -1.0"),
    ],
)
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ZoplatError, match=message):
        ES(**fields)
