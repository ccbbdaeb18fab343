"""ZO-SGD-Cons against a plain transcription of the step of arXiv:2402.11592, and its properties."""

from itertools import product

import numpy as np
import pytest

from zoplat import Estimate, Key
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import zo_sgd_cons
from zoplat_plugins.constant import Constant
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.zo_sgd_cons import Conservative

SEED, EPS, LR, DECAY = 5, 0.3, 0.05, 0.05
"""A radius and a step so large that staying, stepping and stepping back all occur."""


def published_loop(toy: Toy, steps: int, decay: float = 0.0) -> tuple[list[float], list[int]]:
    """The loop on the toy's own arrays: step, look, step back twice, look, go where it was best.

    Returns the losses and the choices, 0 for θ, −1 for θ − ηĝ, 1 for θ + ηĝ.
    """
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded: list[float] = []
    choices: list[int] = []

    def look() -> float:
        recorded.append(toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()])))
        return recorded[-1]

    for step in range(steps):
        z = {n: noise.normal(a.shape, Key(SEED, step, 0), n).astype(np.float64) for n, a in arrays.items()}

        def move(amount: float, z: dict[str, np.ndarray] = z) -> None:
            for name, array in arrays.items():
                array += amount * z[name]

        move(+EPS)
        up = look()
        move(-2 * EPS)
        down = look()
        move(+EPS)
        g = (up - down) / (2 * EPS)
        stay = look()
        move(-LR * g)
        forth = look()
        move(+2 * LR * g)
        back = look()
        move(-LR * g)
        choices.append(chosen(stay, forth, back))
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        move(choices[-1] * LR * g)
    return recorded, choices


def chosen(stay: float, forth: float, back: float) -> int:
    """The branches of the published code."""
    if forth > stay:
        return 0 if stay < back else 1
    return -1 if forth < back else 1


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_the_steps_are_those_of_the_published_loop(restore: Restore, decay: float) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded, choices = published_loop(plain, 60, decay)
    assert set(choices) == {-1, 0, 1}
    estimator = MeZO(EPS, rule=Conservative(Plain(lr=LR, decay=decay)))
    answers = train(toy, estimator, steps=60, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


@pytest.mark.parametrize("losses", list(product([1.0, 2.0, 3.0], repeat=3)), ids=str)
def test_ties_are_broken_as_in_the_published_code(losses: tuple[float, float, float]) -> None:
    """Every ordering of three losses, equal ones among them."""
    toy = quadratic(restore="exact")
    start, remaining = toy.theta, iter(losses)
    toy.loss = lambda theta: next(remaining)
    oracle = toy.oracle(0)
    [z] = oracle.draw(Gaussian(), 1)
    Conservative(Plain(lr=LR)).apply(Estimate(z), oracle, None)
    choice = chosen(*losses)
    assert {0: losses[0], -1: losses[1], 1: losses[2]}[choice] == min(losses)
    np.testing.assert_allclose(toy.theta - start, choice * LR * toy.entries(z), rtol=0, atol=1e-14)


def test_the_loss_of_the_batch_never_rises() -> None:
    toy = two_layers(restore="exact")
    estimator, taken = MeZO(EPS, rule=Conservative(Plain(lr=LR))), 0
    for step in range(80):
        before, start = toy.loss(toy.theta), toy.theta
        oracle = toy.oracle(step, seed=SEED)
        for estimate in estimator.estimate(oracle, None):
            estimator.rule.apply(estimate, oracle, None)
        after = toy.loss(toy.theta)
        assert after <= before
        assert after == pytest.approx(min(oracle.answers[2:]), rel=1e-12)
        taken += bool((toy.theta != start).any())
    assert 0 < taken < 80


def test_with_a_step_size_of_zero_nothing_changes() -> None:
    toy = two_layers(restore="exact")
    bits = toy.bits
    train(toy, MeZO(EPS, rule=Conservative(Plain(lr=0.0, decay=0.5))), steps=5)
    assert toy.bits == bits


def test_what_is_registered_steps_with_no_adam_in_the_way() -> None:
    """The published sweep files name no optimizer, so that those runs went through AdamW."""
    registered = zo_sgd_cons.zoplat_estimators()["zo-sgd-cons"]
    assert registered == MeZO(rule=zo_sgd_cons.zoplat_step_rules()["conservative"])
    assert registered.rule == Conservative(Constant(lr=1e-7))


def test_a_step_takes_five_forward_passes_and_five_over_the_weights() -> None:
    toy = two_layers()
    estimator = MeZO(EPS, rule=Conservative())
    recorded = train(toy, estimator, steps=20)
    assert [len(step) for step in recorded] == [5] * 20
    assert toy.space.passes_over_weights == 5 * 20 + 1  # the last choice is gone to after the last step
    assert not toy.space.buffers


def test_all_candidates_are_asked_in_one_call() -> None:
    toy, calls = two_layers(), []
    toy.strategy = "batched"
    losses_at = toy.losses_at
    toy.losses_at = lambda directions: calls.append(len(directions)) or losses_at(directions)  # type: ignore
    train(toy, MeZO(EPS, rule=Conservative()), steps=2)
    assert calls == [2, 3, 2, 3]


def test_conservative_steps_learn_and_replay_bit_for_bit() -> None:
    """The answers hold the choice."""
    estimator = MeZO(1e-2, rule=Conservative(Cosine(lr=2e-2, warmup=5, decay=0.01)))
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator, steps=120)
    train(again, estimator, steps=120, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before
