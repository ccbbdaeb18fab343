"""GRZO against a plain transcription of its update (arXiv:2606.02857), and its properties."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from zoplat import Key, Noise, Oracle, RowSigns, SkipStep, ZoplatError
from zoplat.core.losses import RecordedLosses
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat.testing.toys import SHARES
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import grzo
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.grzo import GRZO
from zoplat_plugins.lozo import LowRank

SEED, SIGMA, LR, ATOL = 5, 0.02, 0.05, 1e-9
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def drawn(noise: Noise, shape: tuple[int, ...], step: int, row: int, name: str) -> np.ndarray:
    """zᵢ on one array, in float64: U of the step, signs of the row."""
    u = noise.normal(shape, Key(SEED, step, -1), name).astype(np.float64)
    if len(shape) == 1:
        return u * noise.sign(shape, Key(SEED, step, row), name, "r")
    r, s = signs(noise, shape, step, row, name)
    return u * (r[:, None] * s)


def signs(noise: Noise, shape: tuple[int, ...], step: int, row: int, name: str) -> list[np.ndarray]:
    """r and s of a row on a matrix: all draws of a step have theirs one after the other, from draw −1 on."""
    whole = [noise.sign((row + 2, n), Key(SEED, step, -1), name, side) for side, n in zip("rs", shape, strict=True)]
    return [each[-1] for each in whole]


def published_loop(toy: Toy, steps: int) -> list[float]:
    """The update on the toy's own arrays, one row of the batch after the other; returns what an oracle would answer."""
    noise, arrays = ReferenceNoise(), {block.name: block.array for block in toy.space.blocks}
    recorded: list[float] = []

    def loss(row: int, z: dict[str, np.ndarray], sigma: float) -> float:
        theta = np.concatenate([(array + sigma * z[name]).reshape(-1) for name, array in arrays.items()])
        return SHARES[row] * toy.loss(theta)

    for step in range(steps):
        rows = range(len(SHARES))
        zs = [{name: drawn(noise, array.shape, step, row, name) for name, array in arrays.items()} for row in rows]
        ups, downs = ([loss(row, zs[row], sigma) for row in rows] for sigma in (SIGMA, -SIGMA))
        delta = np.array(ups) - np.array(downs)
        a = delta / (np.sqrt(np.mean((delta - delta.mean()) ** 2)) + 1e-8)
        for name, array in arrays.items():
            array -= LR * sum(a[row] * zs[row][name] for row in rows) / (2 * SIGMA * len(SHARES))
        recorded += [float(len(SHARES)), *ups, *downs]
    return recorded


def estimator(**changes: object) -> GRZO:
    return replace(GRZO(eps=SIGMA, rule=Plain(lr=LR)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [two_layers, quadratic])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_grzo_takes_the_steps_of_the_published_update(make: Callable[..., Toy], restore: Restore) -> None:
    """25 steps in float64, four rows whose losses differ."""
    plain, toy = make(), make(restore=restore)
    recorded = published_loop(plain, 25)
    answers = train(toy, estimator(), steps=25, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-7)


@pytest.mark.parametrize("strategy", ["sequential", "batched"])
def test_a_run_replays_bit_for_bit_and_learns(strategy: str) -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    run.strategy = again.strategy = strategy
    before = run.loss(run.theta)
    method = estimator(rule=Plain(lr=0.01))
    answers = train(run, method, steps=60)
    train(again, method, steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


@pytest.mark.parametrize("base", [Gaussian(), LowRank(rank=2)])
def test_all_rows_together_give_the_losses_of_one_row_after_the_other(base: object) -> None:
    one, other = two_layers(), two_layers()
    other.strategy = "batched"
    method = estimator(sampler=RowSigns(base))  # type: ignore[arg-type]
    alone, together = train(one, method, steps=10), train(other, method, steps=10)
    np.testing.assert_allclose(np.array(alone), np.array(together), rtol=0, atol=1e-9)
    np.testing.assert_allclose(one.theta, other.theta, rtol=0, atol=1e-8)
    assert other.space.passes_over_weights < one.space.passes_over_weights / 4


def test_a_step_costs_two_passes_whether_its_rows_are_computed_together_or_not() -> None:
    for strategy, moves in (("sequential", 8), ("batched", 1)):
        toy = two_layers()
        toy.strategy = strategy
        oracle = toy.oracle(0)
        for estimate in estimator().estimate(oracle, None):
            estimator().rule.apply(estimate, oracle, None)
        toy.space.settle()
        assert oracle.passes == 2
        assert len(oracle.answers) == 1 + 2 * len(SHARES)
        assert toy.space.passes_over_weights == pytest.approx(moves, abs=1)


def test_the_directions_of_the_rows_are_uncorrelated_and_unbiased(noise: Noise, unbiased: Check) -> None:
    """700 steps of two rows: unit variance, ⟨zᵢ, zⱼ⟩ of mean 0, and the mean of ⟨G, z⟩z is G."""
    toy, law = linear({"w": (4, 3), "b": (3,)}), RowSigns(Gaussian())
    gradient = np.random.default_rng(3).normal(size=15)
    z = np.array([[toy.entries(each) for each in toy.oracle(step).draw(law, 2)] for step in range(700)])
    unbiased((z[:, 0] ** 2), 1.0, "variance")
    unbiased((z[:, 0] * z[:, 1]), 0.0, "correlation of two rows")
    unbiased((z[:, 0] @ gradient)[:, None] * z[:, 0], gradient, "mean estimate")


def test_a_sum_of_directions_is_u_times_a_sum_of_signs() -> None:
    """In float32 to the bit: every ± of the coefficients is added in order, and then multiplied by U."""
    toy = linear({"w": (6, 5)}, dtype="float32")
    zs = toy.oracle(3, seed=SEED).draw(RowSigns(Gaussian()), 3)
    coefficients = np.float32([0.3, -1.7, 0.01])
    whole = sum((float(c) * z for c, z in zip(coefficients[1:], zs[1:], strict=True)), float(coefficients[0]) * zs[0])
    noise, key = toy.space.noise, Key(SEED, 3, -1)
    m = np.zeros((6, 5), np.float32)
    for row, c in enumerate(coefficients):
        r, s = signs(noise, (6, 5), 3, row, "w")
        m += c * r[:, None] * s
    expected = np.asarray(noise.normal((6, 5), key, "w")) * m
    assert np.array_equal(toy.entries(whole), expected.astype(np.float64).reshape(-1))


def test_multiplying_the_loss_changes_no_step_without_a_floor() -> None:
    toy, other = two_layers(), two_layers()
    loss = other.loss
    other.loss = lambda theta: 8 * loss(theta)
    for one in (toy, other):
        train(one, estimator(floor=0.0), steps=10)
    np.testing.assert_allclose(toy.theta, other.theta, rtol=0, atol=1e-9)


def test_a_step_whose_differences_are_all_equal_is_skipped() -> None:
    toy = two_layers()
    toy.loss = lambda theta: 1.0
    with pytest.raises(SkipStep, match="changed by the same 0"):
        list(estimator().estimate(toy.oracle(0), None))


def test_a_batch_of_one_row_is_refused() -> None:
    toy = two_layers()
    oracle = Oracle(toy.space, Key(0, 0, -1), 0.0, RecordedLosses(0, [1.0]))
    with pytest.raises(ZoplatError, match="--batch-size 2"):
        list(estimator().estimate(oracle, None))


def test_what_is_registered() -> None:
    assert grzo.zoplat_estimators()["grzo"].sampler == grzo.zoplat_samplers()["row-signs"] == RowSigns(Gaussian())
    assert GRZO().asks == {"row losses"}
    for field, value in (("eps", 0.0), ("floor", -1.0)):
        with pytest.raises(ZoplatError, match=field):
            replace(GRZO(), **{field: value})
