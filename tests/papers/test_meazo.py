"""MEAZO against a plain transcription of its update (arXiv:2605.03869), and properties of the rule."""

from dataclasses import replace

import numpy as np
import pytest

from zoplat import ZERO, Estimate, Key, ZoplatError
from zoplat.registry import catalogue
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import meazo
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.meazo import MEAZO
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, DECAY, BETA, ZETA = 5, 1e-2, 1e-2, 0.05, 0.9, 1e-3


def published_loop(toy: Toy, steps: int, queries: int, decay: float) -> list[float]:
    """The published loop on the toy's own arrays, t from 1; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    v, recorded = 0.0, []

    def perturb(step: int, query: int, amount: float) -> None:
        for name, array in arrays.items():
            array += amount * noise.normal(array.shape, Key(SEED, step, query), name).astype(np.float64)

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for t in range(1, steps + 1):
        slopes = []
        for query in range(queries):
            perturb(t - 1, query, +EPS)
            up = loss()
            perturb(t - 1, query, -2 * EPS)
            down = loss()
            perturb(t - 1, query, +EPS)
            slopes.append((up - down) / (2 * EPS))
            recorded += [up, down]
        v = BETA * v + (1 - BETA) * np.mean(np.square(slopes))  # the published one squares the mean
        rate = LR / (np.sqrt(v / (1 - BETA**t)) + ZETA)
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        for query in range(queries):
            perturb(t - 1, query, -rate * slopes[query] / queries)
    return recorded


def estimator(queries: int = 1, decay: float = 0.0, floor: float = ZETA, lr: float = LR) -> MeZO:
    return MeZO(eps=EPS, queries=queries, rule=MEAZO(Plain(lr=lr, decay=decay), BETA, floor))


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (1, DECAY), (3, 0.0)])
def test_meazo_takes_the_steps_of_the_published_loop(queries: int, decay: float) -> None:
    plain, toy = two_layers(), two_layers()
    recorded = published_loop(plain, 40, queries, decay)
    answers = train(toy, estimator(queries, decay), steps=40, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_what_is_registered_is_mezo_with_this_rule() -> None:
    rule = meazo.zoplat_step_rules()["meazo"]
    assert meazo.zoplat_estimators()["meazo"] == MeZO(rule=rule)


def test_the_first_step_has_the_sign_of_the_slope_and_nothing_of_its_size() -> None:
    toy = quadratic()
    assert toy.gradient is not None
    start = toy.theta
    [z] = [toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(Gaussian(), 1)]
    sign = np.sign(toy.gradient(start) @ z)
    train(toy, estimator(floor=0.0), steps=1, seed=SEED)
    np.testing.assert_allclose(toy.theta, start - LR * sign * z, rtol=0, atol=1e-11)


def test_multiplying_the_loss_changes_no_step() -> None:
    toy, scaled = two_layers(), two_layers()
    loss = scaled.loss
    scaled.loss = lambda theta: 1000 * loss(theta)
    for one in (toy, scaled):
        train(one, estimator(floor=0.0), steps=30)
    np.testing.assert_allclose(toy.theta, scaled.theta, rtol=0, atol=1e-8)


def test_a_slope_that_does_not_change_is_its_own_mean_square_from_the_first_step_on() -> None:
    toy, rule = linear(), MEAZO(Plain(lr=LR), BETA, 0.0)
    state = rule.init(toy.space)
    z = toy.space.draw(Gaussian(), Key(SEED, 0, 0))
    start = toy.theta
    for step in range(1, 6):
        rule.apply(Estimate(-2.5 * z, slopes=[-2.5]), toy.oracle(step - 1), state)
        np.testing.assert_allclose(toy.theta, start + step * LR * toy.entries(z), rtol=0, atol=1e-12)
    assert state.v / (1 - BETA**5) == pytest.approx(2.5**2)


def test_slopes_of_one_step_can_not_cancel() -> None:
    """+3 and −3 have the mean 0; steps would be without bound."""
    toy, rule = linear(), MEAZO(Plain(lr=LR), BETA, 0.0)
    state = rule.init(toy.space)
    one, other = toy.oracle(0).draw(Gaussian(), 2)
    rule.apply(Estimate(3 / 2 * one - 3 / 2 * other, slopes=[3.0, -3.0]), toy.oracle(0), state)
    assert state.v / (1 - BETA) == pytest.approx(9.0)


def test_a_direction_of_several_terms_counts_once() -> None:
    """As methods have it whose direction has terms with factors of their own: the slope is no sum of coefficients."""
    toy, rule = linear(), MEAZO(Plain(lr=LR), BETA, 0.0)
    state = rule.init(toy.space)
    one, other = toy.oracle(0).draw(Gaussian(), 2)
    rule.apply(Estimate(2.0 * (5 * one - 5 * other), slopes=[2.0]), toy.oracle(0), state)
    assert state.v / (1 - BETA) == pytest.approx(4.0)


@pytest.mark.parametrize("name", ["sgd", "zo-muon", "grzo", "es", "eggroll"])
def test_estimates_that_are_not_slopes_times_directions_are_refused(name: str) -> None:
    method = replace(catalogue().entry("estimator", name).value, rule=MEAZO())
    with pytest.raises(ZoplatError, match=r"'meazo' divides .* Use an estimator .* such as mezo"):
        train(two_layers(), method, steps=1)


@pytest.mark.parametrize("name", ["conmezo", "mezo-layerwise", "block-zo", "fzoo", "bszo", "hizoo", "kerzoo", "dp"])
def test_steps_of_other_methods_do_not_depend_on_the_unit_of_the_loss(name: str) -> None:
    found = []
    for unit in (1.0, 1024.0):
        toy = two_layers()
        loss = toy.loss
        toy.loss = lambda theta, loss=loss, unit=unit: unit * loss(theta)  # type: ignore[misc]
        settings = {"sigma_prior": unit, "sigma_noise": unit} if name == "bszo" else {}
        settings |= {"clip": 10 * unit, "noise": 0.0} if name == "dp" else {}
        method = replace(catalogue().entry("estimator", name).value, rule=MEAZO(Plain(lr=1e-4), floor=0.0), **settings)
        start = toy.theta
        train(toy, method, steps=3)
        found.append(toy.theta - start)
    length = np.linalg.norm(found[0]) / np.sqrt(found[0].size)
    assert 1e-5 < length < 1e-2
    np.testing.assert_allclose(*found, rtol=0, atol=0.01 * length)


@pytest.mark.parametrize("floor", [0.0, ZETA])
def test_a_slope_of_zero_makes_no_step_and_still_decays(floor: float) -> None:
    toy = linear()
    rule = MEAZO(Plain(lr=0.5, decay=0.25), BETA, floor)
    starts = [block.array.copy() for block in toy.space.blocks]
    rule.apply(Estimate(ZERO, slopes=[0.0]), toy.oracle(0), rule.init(toy.space))
    toy.space.settle()
    for block, start in zip(toy.space.blocks, starts, strict=True):
        np.testing.assert_allclose(block.array, (1 - 0.5 * 0.25 if block.decays else 1.0) * start, rtol=1e-12)


def test_the_rate_follows_the_schedule() -> None:
    rule, toy = MEAZO(Cosine(lr=0.3)), linear()
    assert rule.has_horizon
    assert rule.rate(toy.oracle(500, 1000)) == pytest.approx(0.15)


def test_meazo_replays_bit_for_bit_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(decay=DECAY), steps=80)
    train(again, estimator(decay=DECAY), steps=80, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


@pytest.mark.parametrize(("name", "value"), [("beta", 1.0), ("beta", -0.1), ("floor", -1.0)])
def test_a_field_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=f"{name} must .*, got {value}"):
        MEAZO(**{name: value})  # type: ignore[arg-type]
