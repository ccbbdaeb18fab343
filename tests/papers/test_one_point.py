"""The one-point estimator against a plain transcription of Definition 8 of arXiv:2305.17333, and its properties."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from zoplat import Key, Noise, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.one_point import OnePoint, State

SEED, EPS, LR, DECAY = 5, 0.1, 1e-3, 0.05
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(toy: Toy, steps: int, decay: float = 0.0) -> list[float]:
    """Definition 8 on the toy's own arrays: perturb, evaluate, restore, step; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded: list[float] = []

    def perturb(step: int, amount: float) -> None:
        for name, array in arrays.items():
            array += amount * noise.normal(array.shape, Key(SEED, step, 0), name).astype(np.float64)

    for step in range(steps):
        perturb(step, +EPS)
        recorded.append(toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()])))
        perturb(step, -EPS)
        if step == 0:
            continue
        g = (recorded[step] - recorded[step - 1]) / EPS
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        perturb(step, -LR * g)
    return recorded


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize("problem", [two_layers, quadratic])
def test_one_point_takes_the_steps_of_the_definition(
    problem: Callable[..., Toy], restore: Restore, decay: float
) -> None:
    plain, toy = problem(), problem(restore=restore)
    recorded = published_loop(plain, 60, decay)
    answers = train(toy, OnePoint(EPS, rule=Plain(lr=LR, decay=decay)), steps=60, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=1e-9, atol=1e-9)


def test_the_first_step_records_its_loss_and_moves_nothing() -> None:
    toy = two_layers(restore="exact")
    bits, state = toy.bits, State()
    oracle = toy.oracle(0, seed=SEED)
    assert list(OnePoint(EPS).estimate(oracle, state)) == []
    assert oracle.answers == [state.previous]
    assert toy.bits == bits


def test_the_mean_is_the_gradient_and_the_spread_is_more_than_that_of_two_points(noise: Noise, unbiased: Check) -> None:
    """At a fixed θ, 50,000 pairs: E‖ĝ‖² = (2d + 2)‖∇‖² on a linear loss, where two points have d + 2."""
    toy, size = linear({"w": (12,)}), 12
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    z = np.stack([noise.normal((size,), Key(SEED, step, 0), "w") for step in range(100_000)]).astype(np.float64)
    state = State()
    list(OnePoint(EPS).estimate(toy.oracle(0, seed=SEED), state))
    [platform] = OnePoint(EPS).estimate(toy.oracle(1, seed=SEED), state)
    slopes = z[1::2] @ gradient - z[::2] @ gradient
    np.testing.assert_allclose(toy.entries(platform.direction), slopes[0] * z[1], rtol=1e-6, atol=1e-9)
    unbiased(slopes[:, None] * z[1::2], gradient, "mean of residual feedback")
    norm = float(gradient @ gradient)
    squares = slopes**2 * (z[1::2] ** 2).sum(axis=1)
    unbiased(squares, (2 * size + 2) * norm, "second moment")
    assert squares.mean() > 1.5 * (size + 2) * norm
    assert OnePoint().bias == ""


def test_a_step_takes_one_forward_pass_and_one_over_the_weights() -> None:
    toy, passes = two_layers(), 0
    state = State()
    for step in range(10):
        oracle = toy.oracle(step)
        for estimate in OnePoint(EPS).estimate(oracle, state):
            OnePoint(EPS).rule.apply(estimate, oracle, None)
        passes += oracle.passes
    assert (passes, toy.space.passes_over_weights) == (10, 10)


def test_a_loss_that_is_not_finite_is_not_remembered() -> None:
    """The step after compares with the last loss that was a number."""
    toy, state = two_layers(), State(previous=0.5)
    toy.loss = lambda theta: float("nan")
    with pytest.raises(ZoplatError, match="nan"):
        list(OnePoint(EPS).estimate(toy.oracle(1), state))
    assert state.previous == 0.5


def test_one_point_learns_and_replays_bit_for_bit() -> None:
    estimator = OnePoint(EPS, rule=Plain(lr=1e-3))
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator, steps=400)
    train(again, estimator, steps=400, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


@pytest.mark.parametrize("stop", [0, 1, 15])
def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends(stop: int) -> None:
    """The loss of the step before is in the checkpoint."""
    estimator = OnePoint(EPS, rule=Plain(lr=LR))

    def steps(toy: Toy, state: State, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 30, SEED)
            for estimate in estimator.estimate(oracle, state):
                estimator.rule.apply(estimate, oracle, None)
        toy.space.settle()

    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    state, fresh = State(), State()
    steps(unbroken, state, 0, stop)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    steps(unbroken, state, stop, 30)
    steps(resumed, fresh, stop, 30)
    assert resumed.bits == unbroken.bits


def test_a_radius_must_be_positive() -> None:
    with pytest.raises(ZoplatError, match="eps must be positive"):
        OnePoint(eps=0.0)
