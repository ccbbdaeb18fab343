"""Adam and ZO-Adam against a plain transcription of Algorithm 1 of arXiv:1412.6980, and their properties."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Estimate, Estimator, Key, Noise, Oracle, Sampler, StepRule, Tile, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, cubic, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_plugins import adam, zo_adam
from zoplat_plugins.adam import Adam
from zoplat_plugins.constant import Constant
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO

from .plain import Looks, mean_estimate

SEED, EPS, LR, DECAY = 5, 1e-2, 3e-3, 0.05
BETA1, BETA2, SMALL = 0.9, 0.99, 1e-8


def adam_step(
    arrays: dict[str, np.ndarray], grad: dict[str, np.ndarray], moments: dict[str, Any], t: int, lr: float, decay: float
) -> None:
    """One step of AdamW in place, tensor by tensor."""
    for name, array in arrays.items():
        m, v = moments.get(name, (np.zeros(array.shape), np.zeros(array.shape)))
        m = BETA1 * m + (1 - BETA1) * grad[name]
        v = BETA2 * v + (1 - BETA2) * grad[name] ** 2
        moments[name] = (m, v)
        if array.ndim == 2:
            array -= lr * decay * array
        array -= lr * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + SMALL)


def published_loop(toy: Toy, steps: int, queries: int = 1, decay: float = 0.0) -> list[float]:
    """ZO-Adam on the toy's own arrays, the estimate and both moments in arrays of their own; returns the losses."""
    look, moments = Looks(toy), dict[str, Any]()
    for step in range(steps):
        adam_step(look.arrays, mean_estimate(look, SEED, step, queries, EPS), moments, step + 1, LR, decay)
    return look.recorded


def rule(decay: float = 0.0, lr: float = LR) -> Adam:
    return Adam(Plain(lr=lr, decay=decay), BETA1, BETA2, SMALL)


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (1, DECAY), (3, DECAY)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_zo_adam_takes_the_steps_of_the_published_loop(restore: Restore, queries: int, decay: float) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 40, queries, decay)
    answers = train(toy, MeZO(EPS, queries, rule=rule(decay)), steps=40, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-7)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-7)


@dataclass(frozen=True)
class Backprop(Estimator):
    """The exact gradient."""

    rule: StepRule = Constant()

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        loss, gradient = oracle.gradient()
        yield Estimate(gradient, [loss])


def test_on_exact_gradients_the_rule_is_adamw() -> None:
    plain, toy = cubic(), cubic()
    assert plain.gradient is not None
    arrays = {block.name: block.array for block in plain.space.blocks}
    moments: dict[str, Any] = {}
    for t in range(1, 41):
        flat, at, grad = plain.gradient(plain.held), 0, {}
        for name, array in arrays.items():
            grad[name] = flat[at : at + array.size].reshape(array.shape)
            at += array.size
        adam_step(arrays, grad, moments, t, 0.01, DECAY)
    train(toy, Backprop(rule=rule(DECAY, lr=0.01)), steps=40)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


@dataclass(frozen=True)
class Turning(Sampler):
    """z = 1 at even steps, −1 at odd ones."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = 1.0 - 2.0 * (key.step % 2)


def test_two_steps_by_hand() -> None:
    """L = ½θ² at 2 along 1 gives ĝ = 2 and a step of η·2/(2 + 1e-8); then ĝ is θ again, along −1."""
    toy = Toy(np.array([2.0]), {"w": (1,)}, lambda theta: float(theta[0] ** 2) / 2)
    method, state = MeZO(0.5, sampler=Turning()), Adam().init(toy.space)
    seen = []
    for step in range(2):
        oracle = toy.oracle(step)
        [estimate] = method.estimate(oracle, None)
        Adam(schedule=Plain(lr=0.1)).apply(estimate, oracle, state)
        seen.append(toy.theta[0])
    first = 2 - 0.1 * 2 / (2 + 1e-8)
    m = 0.9 * (0.1 * 2) + 0.1 * first
    v = 0.999 * (0.001 * 4) + 0.001 * first**2
    second = first - 0.1 * (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)
    np.testing.assert_allclose(seen, [first, second], rtol=1e-12)


def test_the_first_step_moves_every_weight_by_about_eta() -> None:
    toy = two_layers()
    start = toy.theta
    train(toy, MeZO(EPS, rule=rule()), steps=1)
    np.testing.assert_allclose(np.abs(toy.theta - start), LR, rtol=1e-4)


def test_the_moments_are_float32_and_small_squares_do_not_vanish_beside_weights_of_16_bits() -> None:
    """In float16 ε = 1e-8 is 0, and so is 0.001·ĝ² below |ĝ| = 5e-3."""
    toy = two_layers(dtype="float16")
    train(toy, MeZO(EPS, rule=Adam(schedule=Plain(lr=1e-3))), steps=1)
    assert np.isfinite(toy.theta).all()
    toy = two_layers(dtype="float16")
    start, state = toy.theta, Adam().init(toy.space)
    [z] = toy.oracle(0).draw(Gaussian(), 1)
    Adam(schedule=Plain(lr=0.1)).apply(Estimate(1e-4 * z), toy.oracle(0), state)
    g = np.abs(toy.entries(1e-4 * z))
    np.testing.assert_allclose(np.abs(toy.theta - start), 0.1 * g / (g + 1e-8), rtol=0, atol=1e-3)
    for buffer in toy.space.buffers:
        assert all(array.dtype == np.float32 for array in buffer.arrays.values())


def test_decay_is_decoupled_from_the_moments() -> None:
    """AdamW: with an estimate of 0 matrices shrink by 1 − ηλ and the moments stay 0."""
    toy = quadratic(restore="exact")
    starts = {block.name: block.array.copy() for block in toy.space.blocks}
    state = Adam().init(toy.space)
    Adam(schedule=Plain(lr=0.5, decay=0.25)).apply(Estimate(ZERO), toy.oracle(0), state)
    for block in toy.space.blocks:
        factor = 1 - 0.5 * 0.25 if len(block.shape) == 2 else 1.0
        np.testing.assert_array_equal(block.array, factor * starts[block.name])
        assert not state.m.arrays[block.name].any()
        assert not state.v.arrays[block.name].any()


def test_what_is_registered_is_mezo_with_the_adam_rule() -> None:
    registered = zo_adam.zoplat_estimators()["zo-adam"]
    assert registered == MeZO(eps=1e-4, rule=adam.zoplat_step_rules()["adam"])
    assert registered.rule == Adam(Constant(lr=1e-6, decay=0.0), 0.9, 0.999, 1e-8)


def test_a_step_costs_what_is_claimed() -> None:
    """Two forward passes, three over the weights, and two float32 numbers for each of them."""
    toy = two_layers(dtype="float32")
    method = MeZO(EPS, rule=Adam())
    recorded = train(toy, method, steps=20)
    assert [len(step) for step in recorded] == [2] * 20
    assert toy.space.passes_over_weights == 3 * 20
    kept = sum(buffer.bytes for buffer in toy.space.buffers)
    assert kept == 8 * toy.space.size


def test_zo_adam_learns_and_replays_bit_for_bit() -> None:
    """With a schedule and decay."""
    method = MeZO(EPS, rule=Adam(schedule=Cosine(lr=2e-2, warmup=5, decay=0.01)))
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, method, steps=120)
    train(again, method, steps=120, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends() -> None:
    """Moments and the count of steps are in the checkpoint."""
    method = MeZO(EPS, rule=rule(DECAY))

    def steps(toy: Toy, state: Any, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 30, SEED)
            for estimate in method.estimate(oracle, None):
                method.rule.apply(estimate, oracle, state)
        toy.space.settle()

    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    state, fresh = method.rule.init(unbroken.space), method.rule.init(resumed.space)
    steps(unbroken, state, 0, 15)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    for buffer, kept in zip(resumed.space.buffers, unbroken.space.buffers, strict=True):
        for name, array in buffer.arrays.items():
            array[:] = kept.arrays[name]
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    assert fresh.steps == 15
    steps(unbroken, state, 15, 30)
    steps(resumed, fresh, 15, 30)
    assert resumed.bits == unbroken.bits


@pytest.mark.parametrize(("field", "value"), [("beta1", 1.0), ("beta2", -0.1), ("eps", 0.0)])
def test_a_setting_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=field):
        Adam(**{field: value})  # type: ignore[arg-type]
