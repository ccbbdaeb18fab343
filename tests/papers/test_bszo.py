"""BSZO against a plain transcription of its published step (arXiv:2601.01452), with a whole covariance matrix."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from zoplat import Key, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat.testing.runs import Run
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import bszo
from zoplat_plugins.bszo import BSZO, Posterior, State, usual_slope

SEED, EPS, LR, PRIOR, NOISE, ALPHA = 5, 1e-2, 2e-3, 2.0, 0.7, 0.1


def published_loop(toy: Toy, steps: int, queries: int, extra: int, remeasure: bool) -> list[float]:
    """The published step on the toy's own arrays: a Kalman filter of k slopes, by matrices; returns the losses.

    A measurement beyond the k-th goes along the eigenvector of the largest eigenvalue of the covariance: with
    `remeasure` as it is (version 4 of the authors' code), else rounded to the axis it is nearest to, whose value is
    used again (version 3).
    """
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    square, recorded = NOISE**2, list[float]()

    def loss(step: int, along: np.ndarray) -> float:
        moved = []
        for name, array in arrays.items():
            z = [noise.normal(array.shape, Key(SEED, step, i), name).astype(np.float64) for i in range(queries)]
            moved.append((array + sum(EPS * c * zi for c, zi in zip(along, z, strict=True))).reshape(-1))
        recorded.append(toy.loss(np.concatenate(moved)))
        return recorded[-1]

    for step in range(steps):
        base = loss(step, np.zeros(queries))
        axes = np.eye(queries)
        values = [(loss(step, axis) - base) / EPS for axis in axes]
        mean, covariance = np.zeros(queries), PRIOR**2 * np.eye(queries)
        for m in range(queries + extra):
            if m < queries:
                d, y = axes[m], values[m]
            else:
                d = np.linalg.eigh(covariance)[1][:, -1]
                if remeasure:
                    y = (loss(step, d) - base) / EPS
                else:
                    nearest = int(np.argmax(np.abs(d)))
                    d, y = axes[nearest], values[nearest]
            residual = y - d @ mean
            square = (1 - ALPHA) * square + ALPHA * residual**2
            sigma = max(NOISE / 10, np.sqrt(square))
            gain = covariance @ d / (d @ covariance @ d + sigma**2)
            mean = mean + gain * residual
            covariance = covariance - np.outer(gain, d @ covariance)
            covariance = (covariance + covariance.T) / 2
        for name, array in arrays.items():
            for i in range(queries):
                array -= LR * mean[i] * noise.normal(array.shape, Key(SEED, step, i), name).astype(np.float64)
    return recorded


def estimator(queries: int = 2, extra: int = 1, remeasure: bool = False, alpha: float = ALPHA) -> BSZO:
    return BSZO(EPS, queries, extra, remeasure, PRIOR, NOISE, alpha, rule=Plain(lr=LR))


@pytest.mark.parametrize(("make", "restore"), [(quadratic, "in-place"), (two_layers, "exact")])
@pytest.mark.parametrize("remeasure", [False, True], ids=["version 3", "version 4"])
@pytest.mark.parametrize(("queries", "extra"), [(2, 1), (1, 1), (3, 4), (2, 0)])
def test_bszo_takes_the_published_steps(
    make: Callable[..., Toy], restore: Restore, remeasure: bool, queries: int, extra: int
) -> None:
    plain, toy = make(), make(restore=restore)
    recorded = published_loop(plain, 15, queries, extra, remeasure)
    answers = train(toy, estimator(queries, extra, remeasure), steps=15, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("remeasure", "passes"), [(False, 4), (True, 6)])
def test_a_step_takes_a_pass_for_each_direction_and_one_at_theta(remeasure: bool, passes: int) -> None:
    [answers] = train(two_layers(), estimator(3, 2, remeasure), steps=1)
    assert len(answers) == passes


def test_measuring_again_changes_nothing_where_the_loss_is_the_same_again() -> None:
    """Versions 3 and 4 of the authors' code take the same steps, at different cost."""
    kept, again = two_layers(restore="exact"), two_layers(restore="exact")
    train(kept, estimator(2, 3, remeasure=False), steps=20)
    train(again, estimator(2, 3, remeasure=True), steps=20)
    assert kept.bits == again.bits


def test_the_posterior_is_that_of_bayes_with_known_noise() -> None:
    """Against the closed form, y₁ … y₄ of one slope: precisions add up, and every measurement lowers the variance."""
    prior, noise, values = 3.0, 0.5, [1.0, 1.4, 0.7, 2.0]
    belief, before = Posterior([0.0], [prior], noise), prior
    for n, y in enumerate(values, 1):
        belief.update(0, y, alpha=0.0, least=noise / 100)
        precision = 1 / prior + n / noise
        assert belief.variances[0] == pytest.approx(1 / precision)
        assert belief.means[0] == pytest.approx(sum(values[:n]) / noise / precision)
        assert belief.variances[0] < before
        before = belief.variances[0]


@pytest.mark.parametrize(("extra", "gains"), [(0, (0.8, 0.8)), (1, (0.8, 8 / 9)), (2, (8 / 9, 8 / 9))])
def test_slopes_are_shrunk_by_what_is_known_and_the_last_counts_again_first(
    extra: int, gains: tuple[float, float]
) -> None:
    """With σ_p² = 4 and σ² = 1, n values of a slope keep 4n/(4n + 1) of it; on a linear loss it is ⟨∇L, z⟩."""
    toy = linear()
    assert toy.gradient is not None
    method = BSZO(EPS, 2, extra, sigma_prior=2.0, sigma_noise=1.0, alpha=0.0)
    [estimate] = method.estimate(toy.oracle(0, seed=SEED), State(1.0))
    draws = [toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(method.sampler, 2)]
    expected = sum(gain * (toy.gradient(toy.theta) @ z) * z for gain, z in zip(gains, draws, strict=True))
    np.testing.assert_allclose(toy.entries(estimate.direction), expected, rtol=1e-9)


def test_without_noise_the_step_is_the_gradient_within_the_subspace() -> None:
    toy = linear()
    assert toy.gradient is not None
    method = BSZO(EPS, queries=3, sigma_prior=1e3, sigma_noise=1e-3, alpha=0.0)
    [estimate] = method.estimate(toy.oracle(0, seed=SEED), method.init(toy.space))
    z = np.array([toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(method.sampler, 3)])
    np.testing.assert_allclose(toy.entries(estimate.direction), z.T @ (z @ toy.gradient(toy.theta)), rtol=1e-6)


def test_the_estimate_of_the_noise_rises_at_once_and_falls_slowly() -> None:
    """A measurement far off weighs α in s, and each one after it takes a share α of that away."""
    belief = Posterior([0.0] * 3, [1.0] * 3, 1.0)
    belief.update(0, 100.0, ALPHA, least=0.01)
    assert belief.square == pytest.approx(0.9 + 0.1 * 100**2)
    assert belief.means[0] == pytest.approx(100 / (1 + belief.square))
    belief.update(1, 0.0, ALPHA, least=0.01)
    assert belief.square == pytest.approx(0.9 * (0.9 + 0.1 * 100**2))


def test_a_plateau_moves_nothing_and_the_noise_goes_down_to_a_tenth() -> None:
    toy = Toy(np.ones(6), {"w": (2, 3)}, lambda theta: 1.0, lambda theta: 0 * theta)
    run = Run(toy, BSZO(EPS, sigma_noise=NOISE, rule=Plain(lr=LR)), steps=60)
    for _ in range(60):
        run.advance()
    np.testing.assert_allclose(toy.theta, 1.0, rtol=0, atol=1e-14)
    assert run.state.square < (NOISE / 10) ** 2
    belief = Posterior([0.0], [1.0], run.state.square)
    belief.update(0, 1.0, alpha=0.0, least=(NOISE / 10) ** 2)
    assert belief.means[0] == pytest.approx(1 / (1 + NOISE**2 / 100))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_skips_the_step_and_leaves_the_noise_as_it_was(value: float) -> None:
    losses = iter([1.0, 1.1, value, 1.0, 1.1, 1.2])
    toy = Toy(np.ones(6), {"w": (2, 3)}, lambda theta: next(losses), lambda theta: theta)
    start, run = toy.theta, Run(toy, BSZO(EPS, sigma_noise=NOISE, rule=Plain(lr=LR)), steps=2)
    run.advance()
    assert run.skipped
    assert run.state.square == NOISE**2
    np.testing.assert_allclose(toy.theta, start, rtol=0, atol=1e-15)
    run.advance()
    assert not run.skipped
    assert run.state.square > NOISE**2


def test_the_state_survives_a_checkpoint() -> None:
    whole, halves = two_layers(restore="exact"), two_layers(restore="exact")
    train(whole, estimator(), steps=20, seed=SEED)
    first = Run(halves, estimator(), steps=20, seed=SEED)
    for _ in range(10):
        first.advance()
    table = json.loads(json.dumps(state_to_json(first.state, halves.space)))
    second = Run(halves, estimator(), steps=20, seed=SEED)
    second.state, second.step = state_from_json(second.state, table, halves.space), 10
    for _ in range(10):
        second.advance()
    assert halves.bits == whole.bits


def test_a_slope_is_usually_as_large_as_the_root_of_the_millions_of_weights_and_at_least_one() -> None:
    assert usual_slope(linear({"w": (2000, 2000)}).space) == 2
    assert usual_slope(linear({"w": (3, 4)}).space) == 1
    assert BSZO().init(linear().space) == State(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries must"),
        ({"extra": -1}, "extra must"),
        ({"sigma_prior": -1.0}, "sigma_prior must"),
        ({"alpha": 1.0}, "alpha must lie in"),
    ],
)
def test_settings_without_meaning_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ZoplatError, match=message):
        BSZO(**changes)  # type: ignore[arg-type]  # one field at a time


def test_what_is_registered_has_the_authors_settings() -> None:
    method = bszo.zoplat_estimators()["bszo"]
    assert (method.eps, method.queries, method.extra, method.alpha) == (1e-4, 2, 1, 0.1)
