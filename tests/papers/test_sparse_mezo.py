"""Sparse-MeZO against a plain transcription of its published step (arXiv:2402.15751), and its properties."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from zoplat import Key, Noise, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.sparse_mezo import SparseMeZO

SEED, EPS, LR, DECAY = 5, 1e-2, 5e-3, 0.05
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(toy: Toy, steps: int, density: float, interval: int, decay: float = 0.0) -> list[float]:
    """The published loop on the toy's own arrays; thresholds from the start, masks every `interval` steps."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    limits = {name: np.sort(abs(a).reshape(-1))[int(np.ceil(density * a.size)) - 1] for name, a in arrays.items()}
    mask: dict[str, np.ndarray] = {}
    recorded = []

    def perturb(step: int, amount: float) -> None:
        for name, array in arrays.items():
            array += amount * mask[name] * noise.normal(array.shape, Key(SEED, step, 0), name).astype(np.float64)

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        if step % interval == 0:
            mask = {name: abs(array) <= limits[name] for name, array in arrays.items()}
        perturb(step, +EPS)
        up = loss()
        perturb(step, -2 * EPS)
        down = loss()
        perturb(step, +EPS)
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        perturb(step, -LR * (up - down) / (2 * EPS))
        recorded += [up, down]
    return recorded


def estimator(density: float = 0.5, interval: int = 1, lr: float = LR, decay: float = 0.0) -> SparseMeZO:
    return SparseMeZO(eps=EPS, density=density, interval=interval, rule=Plain(lr=lr, decay=decay))


@pytest.mark.parametrize(("density", "interval", "decay"), [(0.5, 1, 0.0), (0.25, 5, 0.0), (0.5, 3, DECAY)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_sparse_mezo_takes_the_steps_of_the_published_loop(
    density: float, interval: int, decay: float, restore: Restore
) -> None:
    """60 steps in float64, in which weights enter and leave the masks."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 60, density, interval, decay)
    answers = train(toy, estimator(density, interval, decay=decay), steps=60, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_with_all_weights_small_it_is_mezo() -> None:
    """As long as none grows: at density 1 the largest weight is the threshold, so the masks are compared at once."""
    toy, plain = quadratic(), quadratic()
    one = train(toy, estimator(density=1.0, interval=100), steps=20, seed=SEED)
    other = train(plain, MeZO(eps=EPS, rule=Plain(lr=LR)), steps=20, seed=SEED)
    np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(toy.theta, plain.theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_what_is_probed_and_what_moves_are_the_small_weights_of_theta_itself(restore: Restore) -> None:
    """On each of 20 steps both supports are the mask of the unperturbed weights."""
    toy = quadratic(restore=restore)
    method = estimator(lr=0.02)
    state = method.init(toy.space)
    limits = np.concatenate([np.full(b.size, h) for b, h in zip(toy.space.blocks, state.thresholds, strict=True)])
    masks = []
    for step in range(20):
        start, seen, forward = toy.theta, [], toy.loss

        def watched(theta: Any, seen: Any = seen, forward: Any = forward) -> float:
            seen.append(theta.copy())
            return float(forward(theta))

        toy.loss = watched
        oracle = toy.oracle(step, seed=SEED)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        toy.loss = forward
        small = abs(start) <= limits
        for place in (*seen, toy.theta):
            np.testing.assert_array_equal(abs(place - start) > 1e-12, small)
        masks.append(small)
    assert any((one != other).any() for one, other in pairwise(masks)), "a mask changed"


def test_a_weight_that_grows_past_its_threshold_leaves_when_the_mask_is_renewed() -> None:
    toy = linear({"w": (2, 5)}, restore="exact")
    method = estimator(density=0.5, interval=4, lr=0.0)
    state = method.init(toy.space)
    smallest = int(np.argmin(abs(toy.theta)))
    for step in range(8):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        marks = state.mask.arrays["w"].reshape(-1)
        assert marks.sum() == (5 if step < 4 else 4)
        assert marks[smallest] == (step < 4)
        toy.space.settle()
        toy.space.blocks[0].array.reshape(-1)[smallest] = 9.0
        toy.space.reset()


@pytest.mark.parametrize("density", [0.1, 0.25, 0.8])
def test_the_share_of_weights_marked_at_the_start_is_the_density(density: float) -> None:
    toy = linear({"w": (20, 10), "b": (40,)})
    method = estimator(density)
    state = method.init(toy.space)
    next(iter(method.estimate(toy.oracle(0), state)))
    toy.space.settle()
    for block in toy.space.blocks:
        marks = state.mask.arrays[block.name]
        assert marks.dtype == np.uint8
        assert marks.sum() == np.ceil(density * block.size)
        assert abs(block.array[marks == 1]).max() <= abs(block.array[marks == 0]).min()


def test_a_block_that_starts_at_zero_is_kept_whole() -> None:
    toy = linear({"a": (4, 5), "b": (5, 4)})
    toy.space.blocks[1].array[:] = 0.0
    toy.space.reset()
    method = estimator(density=0.25, lr=0.01)
    state = method.init(toy.space)
    for step in range(3):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
    assert (state.mask.arrays["b"] == 1).all()
    assert (toy.theta[20:] != 0).all()


def test_the_mean_estimate_is_the_masked_gradient_and_its_second_moment_is_known(noise: Noise, unbiased: Check) -> None:
    """20,000 draws on a linear loss: E ĝ = m ⊙ G, E‖ĝ‖² = (k + 2)‖m ⊙ G‖² with k weights in the mask."""
    toy = linear({"w": (12,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    method = SparseMeZO(eps=EPS, density=0.5)
    state = method.init(toy.space)
    [platform] = [toy.entries(e.direction) for e in method.estimate(toy.oracle(0, seed=SEED), state)]
    mask = state.mask.arrays["w"] == 1
    z = np.stack([noise.normal((12,), Key(SEED, 0, draw), "w") for draw in range(20_000)]).astype(np.float64) * mask
    estimates = (z @ gradient)[:, None] * z
    np.testing.assert_allclose(platform, estimates[0], rtol=1e-6, atol=1e-9)
    assert mask.sum() == 6
    unbiased(estimates, mask * gradient, "mean")
    unbiased((estimates**2).sum(axis=1), (6 + 2) * float(((mask * gradient) ** 2).sum()), "second moment")


@pytest.mark.parametrize("interval", [1, 4])
def test_a_step_costs_what_is_claimed(interval: int) -> None:
    """Two forward passes and two over θ, and a pass over θ for each renewal."""
    toy, method = two_layers(), estimator(interval=interval)
    answers = train(toy, method, steps=24)
    assert [len(step) for step in answers] == [2] * 24
    assert toy.space.passes_over_weights / 24 == pytest.approx(2 + 1 / interval, rel=0.05)
    assert sum(b.bytes for b in toy.space.buffers) == toy.space.size  # one byte a weight


def test_sparse_mezo_replays_bit_for_bit_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(density=0.75, lr=0.02, decay=DECAY), steps=80)
    train(again, estimator(density=0.75, lr=0.02, decay=DECAY), steps=80, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


@pytest.mark.parametrize(("name", "value"), [("density", 0.0), ("density", 1.5), ("eps", 0.0), ("interval", 0)])
def test_a_field_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=f"{name} must be .*, got {value}"):
        SparseMeZO(**{name: value})  # type: ignore[arg-type]
