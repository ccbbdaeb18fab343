"""MeZO-SVRG against a plain transcription that keeps a copy of the anchor (arXiv:2404.08080), and its properties."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from zoplat import ZERO, Direction, Key, Noise, Oracle, Schedule, ZoplatError, held
from zoplat.core.errors import NonFinite
from zoplat.core.losses import LossBackend, RecordedLosses
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.linear import Linear
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.mezo_svrg import MeZOSVRG, State

SEED, EPS, LR, RATIO = 5, 1e-2, 5e-3, 0.4
Loss = Callable[[np.ndarray], float]
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def batch(step: int, auxiliary: int | None = None) -> Loss:
    """The loss on four examples of the network's forty: those of a step, or those of an auxiliary batch of it."""
    start = 4 * ((3 * step + (0 if auxiliary is None else 1 + auxiliary)) % 10)
    return two_layers(rows=slice(start, start + 4)).loss


class Batched(LossBackend):
    """A toy whose loss is that of the step's batch."""

    def __init__(self, toy: Toy, step: int, auxiliary: int | None = None) -> None:
        self.toy, self.step, self.loss = toy, step, batch(step, auxiliary)

    def forward(self) -> float:
        perturbation = self.toy.space.perturbation
        return self.loss(self.toy.held + self.toy.entries(perturbation) if perturbation else self.toy.held)

    def on_batch(self, index: int) -> LossBackend:
        return Batched(self.toy, self.step, index)


def oracle(toy: Toy, step: int, steps: int, answers: Sequence[float] | None = None) -> Oracle:
    source = Batched(toy, step) if answers is None else RecordedLosses(step, answers)
    return Oracle(toy.space, Key(SEED, step, 0), step / steps, source)


def run(
    toy: Toy, method: MeZOSVRG, steps: int, state: State | None = None, answers: list[list[float]] | None = None
) -> list[list[float]]:
    """Steps on the batches of the steps; returns the answers."""
    state = state or method.init(toy.space)
    recorded = []
    for step in range(steps):
        asked = oracle(toy, step, steps, None if answers is None else answers[step])
        for estimate in method.estimate(asked, state):
            method.rule.apply(estimate, asked, None)
        recorded.append(asked.answers)
    toy.space.settle()
    return recorded


def published_loop(
    toy: Toy,
    steps: int,
    interval: int,
    batches: int,
    shared: bool = False,
    rate: Callable[[int], float] = lambda step: LR,
) -> list[float]:
    """The published loop on θ as one vector, with a second one for θ̄ and a third for ḡ; returns the losses."""
    noise = ReferenceNoise()
    theta, recorded = toy.held, []
    anchor = mean = theta

    def draw(step: int, index: int) -> np.ndarray:
        parts = [noise.normal(block.shape, Key(SEED, step, index), block.name) for block in toy.space.blocks]
        return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float64)

    def difference(losses: list[Loss], place: np.ndarray, z: np.ndarray) -> np.ndarray:
        ups = [loss(place + EPS * z) for loss in losses]
        downs = [loss(place - EPS * z) for loss in losses]
        recorded.extend([*ups, *downs])
        return (np.mean(ups) - np.mean(downs)) / (2 * EPS) * z

    for step in range(steps):
        lr = rate(step)
        if step % interval == 0:
            mean = difference([batch(step, i) for i in range(batches)], theta, draw(step, 0))
            anchor = theta.copy()
            theta = theta - lr * mean
        else:
            z1 = draw(step, 0)
            z2 = z1 if shared else draw(step, 1)
            here, there = difference([batch(step)], theta, z1), difference([batch(step)], anchor, z2)
            theta = theta - RATIO * lr * (here - there + mean)
    at = 0
    for block in toy.space.blocks:
        block.array[:] = theta[at : at + block.size].reshape(block.shape)
        at += block.size
    return recorded


def estimator(
    interval: int = 4, batches: int = 3, shared: bool = False, rule: Schedule | None = None, ratio: float = RATIO
) -> MeZOSVRG:
    return MeZOSVRG(EPS, interval, batches, ratio, shared, rule=rule or Plain(lr=LR))


@pytest.mark.parametrize(("interval", "batches"), [(1, 3), (2, 1), (5, 3)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_mezo_svrg_takes_the_steps_of_the_published_loop(
    interval: int, batches: int, shared: bool, restore: Restore
) -> None:
    """30 steps in float64: going back by names is going to a copy."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 30, interval, batches, shared)
    answers = run(toy, estimator(interval, batches, shared), 30)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_the_way_back_knows_the_rate_of_every_step() -> None:
    """With a warm-up and a schedule the names add up to the anchor still."""
    plain, toy, method = two_layers(), two_layers(), estimator(6, 2, rule=Linear(lr=LR, warmup=4))
    published_loop(plain, 24, 6, 2, rate=lambda step: LR * min((step + 1) / 4, 1 - step / 24))
    run(toy, method, 24)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_from_every_step_the_way_back_leads_to_where_the_anchor_was() -> None:
    toy, method, places = two_layers(), estimator(6, 2), []
    state = method.init(toy.space)
    for step in range(18):
        places.append(toy.theta)
        asked = oracle(toy, step, 18)
        for estimate in method.estimate(asked, state):
            method.rule.apply(estimate, asked, None)
        back = toy.theta + toy.entries(state.back)
        np.testing.assert_allclose(back, places[6 * (step // 6)], rtol=0, atol=1e-12)


def test_what_is_kept_between_steps_is_a_few_names() -> None:
    """At most 2q − 1 in the way back, one for the anchor's estimate, and no array."""
    toy, method = two_layers(), estimator(interval=5)
    state, most = method.init(toy.space), 0
    for step in range(20):
        asked = oracle(toy, step, 20)
        for estimate in method.estimate(asked, state):
            method.rule.apply(estimate, asked, None)
        most = max(most, len(state.back))
        assert len(state.anchor) == 1
    assert most == 2 * 5 - 1
    assert not toy.space.buffers


def test_with_an_anchor_on_every_step_it_is_mezo_on_the_batches_set_apart() -> None:
    toy, plain = two_layers(), two_layers()
    train(toy, estimator(interval=1), steps=20, seed=SEED)  # a toy's other batches are its own
    train(plain, MeZO(eps=EPS, rule=Plain(lr=LR)), steps=20, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.theta, rtol=0, atol=1e-10)


def test_with_one_z_on_a_linear_loss_the_corrections_cancel() -> None:
    """The bracket is ḡ itself; with two z it is not."""
    for shared in (True, False):
        toy = linear()
        method = estimator(interval=2, shared=shared)
        state = method.init(toy.space)
        for step in (0, 1):
            asked = toy.oracle(step, seed=SEED)
            for estimate in method.estimate(asked, state):
                method.rule.apply(estimate, asked, None)
                g = toy.entries(estimate.direction)
        off = np.abs(g - RATIO * toy.entries(state.anchor)).max()
        assert off <= 1e-9 if shared else off > 0.1


@pytest.mark.parametrize("shared", [False, True])
def test_the_mean_of_the_bracket_is_the_gradient_here_less_that_at_the_anchor_plus_the_anchors(
    noise: Noise, unbiased: Check, shared: bool
) -> None:
    """20,000 draws on ½|θ|²: θ − θ̄ + ḡ; one z for both makes the spread smaller."""
    d = 6
    rng = np.random.default_rng(1)
    theta, anchor, mean = rng.normal(size=(3, d))
    toy = Toy(theta, {"w": (d,)}, lambda place: float(place @ place) / 2)
    z1, z2 = (
        np.stack([noise.normal((d,), Key(SEED, k, index), "w") for k in range(20_000)]).astype(np.float64)
        for index in (0, 1)
    )
    z2 = z1 if shared else z2
    samples = (z1 @ theta)[:, None] * z1 - (z2 @ anchor)[:, None] * z2 + mean
    unbiased(samples, theta - anchor + mean, "bracket")
    method = estimator(interval=100, shared=shared, ratio=1.0)
    for step in (1, 2):
        [a, b] = (held_direction(toy, vector) for vector in (anchor - theta, mean))
        [estimate] = method.estimate(toy.oracle(step, seed=SEED), State(b, a))
        np.testing.assert_allclose(toy.entries(estimate.direction), samples[step], rtol=1e-6, atol=1e-7)
        toy.space.settle()


def held_direction(toy: Toy, values: np.ndarray) -> Direction:
    """A direction with given entries."""
    buffer = toy.space.buffer("test/values")
    buffer.arrays["w"][:] = values
    return held(buffer)


def test_an_anchor_that_could_not_be_taken_is_taken_on_the_next_step() -> None:
    toy, method = two_layers(), estimator(interval=10)
    state, loss = method.init(toy.space), toy.loss
    start = toy.theta
    toy.loss = lambda theta: float("nan")
    with pytest.raises(NonFinite):
        next(iter(method.estimate(toy.oracle(0), state)))
    assert (state.anchor, state.back) == (ZERO, ZERO)
    toy.loss = loss
    asked = toy.oracle(1)
    for estimate in method.estimate(asked, state):
        method.rule.apply(estimate, asked, None)
    assert len(state.anchor) == 1
    np.testing.assert_allclose(toy.theta + toy.entries(state.back), start, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("interval", "batches"), [(1, 2), (2, 1), (4, 3)])
def test_a_step_costs_what_is_claimed(interval: int, batches: int) -> None:
    """2·batches forward passes for an anchor, 4 for a step between; 2 and 4 over θ. Over whole intervals."""
    toy, method = two_layers(), estimator(interval, batches)
    answers = run(toy, method, 24)
    between = 4 * (interval - 1)
    assert sum(map(len, answers)) / 24 == (2 * batches + between) / interval
    assert toy.space.passes_over_weights / 24 == pytest.approx((2 + between) / interval, rel=0.05)


def test_mezo_svrg_replays_bit_for_bit_and_learns() -> None:
    first, again, method = two_layers(dtype="float32"), two_layers(dtype="float32"), estimator(rule=Plain(lr=LR))
    before = two_layers().loss(first.theta)
    answers = run(first, method, 120)
    run(again, method, 120, answers=answers)
    assert again.bits == first.bits
    assert two_layers().loss(first.theta) < 0.9 * before


def test_its_state_comes_back_from_a_checkpoint() -> None:
    toy, method = two_layers(), MeZOSVRG(EPS, 5, 2, RATIO)  # whose laws are registered, as a checkpoint wants
    state = method.init(toy.space)
    for step in range(4):
        asked = oracle(toy, step, 20)
        for estimate in method.estimate(asked, state):
            method.rule.apply(estimate, asked, None)
    back = state_from_json(method.init(toy.space), state_to_json(state, toy.space), toy.space)
    assert (back.anchor, back.back) == (state.anchor, state.back)
    assert len(back.back) == 7


@pytest.mark.parametrize("rule", [Plain(decay=0.1), "adam"], ids=["decay", "another rule"])
def test_a_rule_that_hides_the_way_back_is_refused(rule: Schedule) -> None:
    with pytest.raises(ZoplatError, match="constant, linear or cosine with decay 0"):
        MeZOSVRG(rule=rule)


@pytest.mark.parametrize("name", ["eps", "ratio", "interval", "anchor_batches"])
def test_a_field_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ZoplatError, match=f"{name} must be .*, got 0"):
        MeZOSVRG(**{name: 0})


def test_the_batches_of_the_toy_differ() -> None:
    """Else the comparisons above would not tell one batch from another."""
    theta = two_layers().theta
    losses = [batch(2)(theta), *(batch(2, i)(theta) for i in range(3))]
    assert all(one != other for one, other in pairwise(sorted(losses)))
