"""ConMeZO against a plain transcription of its published step (arXiv:2511.02757), and its properties."""

import math

import numpy as np
import pytest

from zoplat import Key, ZoplatError, held
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.conmezo import ConMeZO, State
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, DECAY = 5, 1e-2, 2e-3, 0.05
ANGLE, BETA = 1.2, 0.9


def published_loop(toy: Toy, steps: int, warmup: int = 0, decay: float = 0.0) -> list[float]:
    """The published loop on θ as one vector; returns the losses."""
    noise = ReferenceNoise()
    shapes = {block.name: block.shape for block in toy.space.blocks}
    decays = np.concatenate([np.full(math.prod(s), float(len(s) == 2)) for s in shapes.values()])
    theta, m = toy.held, np.zeros(toy.space.size)
    recorded = []
    for t in range(steps):
        u = np.concatenate(
            [noise.normal(shape, Key(SEED, t, 0), name).reshape(-1) for name, shape in shapes.items()]
        ).astype(np.float64)
        if np.linalg.norm(m) < 1e-8:
            z = u
        else:
            z = np.sqrt(len(m)) * np.cos(ANGLE) * m / np.linalg.norm(m) + np.sin(ANGLE) * u
        up, down = toy.loss(theta + EPS * z), toy.loss(theta - EPS * z)
        g = (up - down) / (2 * EPS)
        theta = (1 - LR * decay * decays) * theta - LR * g * z
        first, last = warmup / 10, warmup
        if t > last or not warmup:
            beta = BETA
        elif t <= first:
            beta = 0.1
        else:
            p = ((t - first) / (last - first)) ** 1.8
            beta = BETA - (BETA - 0.1) / (1 + 8 * p) ** 3
        m = beta * m + (1 - beta) * g * z
        recorded += [up, down]
    at = 0
    for block in toy.space.blocks:
        block.array[:] = theta[at : at + block.size].reshape(block.shape)
        at += block.size
    return recorded


def estimator(angle: float = ANGLE, beta: float = BETA, warmup: int = 0, lr: float = LR, decay: float = 0.0) -> ConMeZO:
    return ConMeZO(eps=EPS, angle=angle, beta=beta, beta_warmup=warmup, rule=Plain(lr=lr, decay=decay))


@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.0), (0, DECAY), (30, 0.0)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_conmezo_takes_the_steps_of_the_published_loop(warmup: int, decay: float, restore: Restore) -> None:
    """60 steps in float64, one cone for all blocks; the norm of m is rounded to 24 bits."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 60, warmup, decay)
    answers = train(toy, estimator(warmup=warmup, decay=decay), steps=60, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-6)


def test_a_cone_of_half_a_turn_is_mezo() -> None:
    toy, plain = two_layers(), two_layers()
    train(toy, estimator(angle=math.pi / 2), steps=30, seed=SEED)
    train(plain, MeZO(eps=EPS, rule=Plain(lr=LR)), steps=30, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.theta, rtol=0, atol=1e-10)


def one_step(toy: Toy, method: ConMeZO, state: State, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Takes a step; returns z = ĝ/g as it was probed and ĝ."""
    oracle = toy.oracle(step, seed=SEED)
    for estimate in method.estimate(oracle, state):
        up, down = estimate.losses
        g = toy.entries(estimate.direction)
        method.rule.apply(estimate, oracle, None)
    return g / ((up - down) / (2 * EPS)), g


def test_directions_have_the_stated_part_along_the_momentum_and_the_length_of_a_dense_draw() -> None:
    """⟨z, m̂⟩ = √d cos φ + sin φ⟨u, m̂⟩; on the mean of 40 steps ‖z‖² is d."""
    toy, method = quadratic(), estimator(lr=1e-4)
    state = method.init(toy.space)
    squares = []
    for step in range(40):
        m, d = toy.entries(held(state.m)), toy.space.size
        [u] = [toy.entries(u) for u in toy.oracle(step, seed=SEED).draw(method.sampler, 1)]
        z, _ = one_step(toy, method, state, step)
        if step:
            along = m / np.linalg.norm(m)
            expected = np.sqrt(d) * np.cos(ANGLE) + np.sin(ANGLE) * (u @ along)
            assert z @ along == pytest.approx(expected, rel=1e-5)
        else:
            np.testing.assert_allclose(z, u, rtol=1e-9)
        squares.append(z @ z / d)
    assert abs(np.mean(squares) - 1) <= 5 * np.std(squares) / 40**0.5


def test_without_memory_the_momentum_is_the_last_estimate() -> None:
    toy, method = two_layers(), estimator(beta=0.0)
    state = method.init(toy.space)
    for step in range(5):
        _, g = one_step(toy, method, state, step)
        np.testing.assert_allclose(toy.entries(held(state.m)), g, rtol=1e-9, atol=1e-12)


def test_every_step_goes_along_the_direction_that_was_probed_with_the_old_momentum() -> None:
    """m changes while the step is still remembered: θ must have moved by −η g z with the z of the probes."""
    toy, method = quadratic(), estimator()
    state = method.init(toy.space)
    for step in range(10):
        start = toy.theta
        _, g = one_step(toy, method, state, step)
        np.testing.assert_allclose(toy.theta, start - LR * g, rtol=0, atol=1e-12)


def test_two_steps_by_hand() -> None:
    """L = a·θ: with β = 0 and m = g₀z₀, z₁ = √d cos φ · sign(g₀) z₀/‖z₀‖ + sin φ · u₁."""
    toy, method = linear({"w": (3,)}), estimator(beta=0.0)
    assert toy.gradient is not None
    a, state = toy.gradient(toy.theta), method.init(toy.space)
    u0, u1 = (ReferenceNoise().normal((3,), Key(SEED, step, 0), "w").astype(np.float64) for step in (0, 1))
    one_step(toy, method, state, 0)
    z, _ = one_step(toy, method, state, 1)
    m = (a @ u0) * u0
    by_hand = 3**0.5 * np.cos(ANGLE) * m / np.linalg.norm(m) + np.sin(ANGLE) * u1
    np.testing.assert_allclose(z, by_hand, rtol=1e-6)


def test_a_step_costs_what_is_claimed() -> None:
    toy, method = two_layers(), estimator()
    answers = train(toy, method, steps=20)
    assert [len(step) for step in answers] == [2] * 20
    assert toy.space.passes_over_weights / 20 == pytest.approx(3)
    assert sum(b.bytes for b in toy.space.buffers) == 8 * toy.space.size  # one number a weight, float64 here


def test_conmezo_replays_bit_for_bit_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(decay=DECAY), steps=80)
    train(again, estimator(decay=DECAY), steps=80, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


@pytest.mark.parametrize(
    ("name", "value"), [("angle", 0.0), ("angle", 1.6), ("beta", 1.0), ("beta_warmup", -1), ("eps", 0.0)]
)
def test_a_field_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=f"{name} must .*, got {value}"):
        ConMeZO(**{name: value})  # type: ignore[arg-type]
