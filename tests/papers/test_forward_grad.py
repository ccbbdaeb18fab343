"""Forward-Grad against a plain transcription of Algorithm 1 of arXiv:2202.08587, and its properties."""

from collections.abc import Callable

import numpy as np
import pytest

from zoplat import Key, Noise, ZoplatError
from zoplat.config.layers import resolve
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, cubic, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import forward_grad
from zoplat_plugins.constant import Constant
from zoplat_plugins.forward_grad import ForwardGrad
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO

SEED, LR, DECAY = 5, 2e-3, 0.05
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def slope_of_network(arrays: dict[str, np.ndarray], v: dict[str, np.ndarray]) -> tuple[float, float]:
    """The loss of `two_layers` and its derivative along v, by pairs of value and tangent."""
    rng = np.random.default_rng(20)
    rng.normal(size=61)
    inputs = rng.normal(size=(40, 3))
    targets = np.sin(2 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]
    hidden = np.tanh(inputs @ arrays["hidden.weight"].T + arrays["hidden.bias"])
    tangent = (1 - hidden**2) * (inputs @ v["hidden.weight"].T + v["hidden.bias"])
    error = hidden @ arrays["output.weight"][0] + arrays["output.bias"] - targets
    moved = tangent @ arrays["output.weight"][0] + hidden @ v["output.weight"][0] + v["output.bias"]
    return float(np.mean(error**2)), float(np.mean(2 * error * moved))


def published_loop(toy: Toy, steps: int, queries: int, decay: float) -> list[float]:
    """The loop of the paper on the toy's own arrays; returns losses and derivatives."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []
    for step in range(steps):
        found = []
        for query in range(queries):
            key = Key(SEED, step, query)
            v = {name: noise.normal(a.shape, key, name).astype(np.float64) for name, a in arrays.items()}
            found.append((v, *slope_of_network(arrays, v)))
        for name, array in arrays.items():
            if array.ndim == 2:
                array *= 1 - LR * decay
            for v, _, slope in found:
                array -= LR * slope / queries * v[name]
        recorded += [number for _, loss, slope in found for number in (loss, slope)]
    return recorded


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (1, DECAY), (3, DECAY)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_forward_grad_takes_the_steps_of_the_published_loop(queries: int, decay: float, restore: Restore) -> None:
    """40 steps in float64, to 1e-6: the toy's derivatives are differences of 1e-6."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 40, queries, decay)
    method = ForwardGrad(queries=queries, rule=Plain(lr=LR, decay=decay))
    answers = train(toy, method, steps=40, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=1e-6, atol=1e-7)


def test_a_step_goes_along_v_by_its_exact_slope() -> None:
    """On a quadratic, to 1e-12: θ' = θ − η⟨∇L, v⟩v."""
    toy = quadratic()
    assert toy.gradient is not None
    start, gradient = toy.theta, toy.gradient(toy.theta)
    [v] = [toy.entries(v) for v in toy.oracle(0, seed=SEED).draw(Gaussian(), 1)]
    [[loss, slope]] = train(toy, ForwardGrad(rule=Plain(lr=0.01)), steps=1, seed=SEED)
    assert (loss, slope) == pytest.approx((toy.loss(start), gradient @ v), rel=1e-12)
    np.testing.assert_allclose(toy.theta, start - 0.01 * (gradient @ v) * v, rtol=0, atol=1e-12)


def test_it_is_the_limit_of_central_differences() -> None:
    """On a cubic the difference to MeZO's slope along the same z is κε²Σz³, for any ε."""
    toy, kappa = cubic(kappa=0.1), 0.1
    [v] = toy.oracle(3, seed=SEED).draw(Gaussian(), 1)
    exact = toy.oracle(3, seed=SEED).jvp(v)[1]
    for eps in (1e-2, 1e-1, 1.0):
        [estimate] = MeZO(eps=eps).estimate(toy.oracle(3, seed=SEED), None)
        up, down = estimate.losses
        expected = kappa * eps**2 * (toy.entries(v) ** 3).sum()
        assert (up - down) / (2 * eps) - exact == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_mean_estimate_is_the_gradient(noise: Noise, unbiased: Check) -> None:
    """30,000 draws of E⟨∇L, v⟩v = ∇L, and E‖·‖² = (d + 2)‖∇L‖²."""
    toy = linear({"w": (8,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    v = np.stack([noise.normal((8,), Key(SEED, 0, draw), "w") for draw in range(30_000)]).astype(np.float64)
    estimates = (v @ gradient)[:, None] * v
    [platform] = ForwardGrad().estimate(toy.oracle(0, seed=SEED), None)
    np.testing.assert_allclose(toy.entries(platform.direction), estimates[0], rtol=1e-6, atol=1e-9)
    unbiased(estimates, gradient, "mean")
    unbiased((estimates**2).sum(axis=1), 10 * float(gradient @ gradient), "second moment")


def test_where_the_weights_stand_does_not_matter() -> None:
    """The derivative is that at θ, whatever was probed before."""
    toy = quadratic()
    oracle = toy.oracle(0, seed=SEED)
    [v] = oracle.draw(Gaussian(), 1)
    recorded = oracle.jvp(v)
    oracle.losses(0.5 * v)
    assert oracle.jvp(v) == pytest.approx(recorded, rel=1e-12)


def test_it_learns_and_its_runs_replay_from_losses_and_slopes() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    method = ForwardGrad(queries=2, rule=Plain(lr=2e-3, decay=DECAY))
    answers = train(run, method, steps=100)
    train(again, method, steps=100, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.7 * two_layers().loss(two_layers().theta)
    answers[50][1] += 1e-2
    changed = two_layers(dtype="float32")
    train(changed, method, steps=100, answers=answers)
    assert changed.bits != run.bits


@pytest.mark.parametrize("queries", [1, 4])
def test_a_step_counts_two_passes_for_each_direction_and_moves_the_weights_once(queries: int) -> None:
    toy, method = two_layers(), ForwardGrad(queries=queries)
    for step in range(10):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, None):
            method.rule.apply(estimate, oracle, None)
        assert oracle.passes == 2 * queries
    toy.space.settle()
    assert toy.space.passes_over_weights == 10


def test_what_is_registered_asks_for_a_derivative_and_says_who_has_none() -> None:
    method = forward_grad.zoplat_estimators()["forward-grad"]
    assert method == ForwardGrad(queries=1, sampler=Gaussian(), rule=Constant(lr=1e-6))
    assert method.asks == {"jvp"}
    with pytest.raises(ZoplatError, match="'forward-grad' asks the device for jvp; 'reference' answers only features"):
        resolve({"estimator": "forward-grad", "device": "reference"})
    with pytest.raises(ZoplatError, match=r"queries must lie in \[1, 1e\+06\], got 0"):
        ForwardGrad(queries=0)
