"""HiZOO against a plain transcription of the step of arXiv:2402.15173 and of the authors' code, and its properties."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import Key, Noise, ZoplatError
from zoplat.config.layers import resolve
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import hizoo
from zoplat_plugins.hizoo import HiZOO
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, DECAY, SMOOTH, STEPS = 5, 1e-2, 2e-3, 0.05, 0.02, 40
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]
Order = Literal["old", "new"]
Scale = Literal["divide", "multiply"]


def published_loop(
    toy: Toy,
    steps: int,
    smooth: Callable[[int], float],
    order: Order = "old",
    decay: float = 0.0,
    debiased: bool = False,
    scale: Scale = "divide",
) -> tuple[list[float], np.ndarray]:
    """The loop on the toy's own arrays: L0, L+, L−, then the step along z/√D or z/√D′; returns the losses and D.

    The authors' older trainer (large_models/trainer.py of 2024, at commit 34e8d14) multiplies z by √D in the
    probe and by √D′ in the step, and divides z² by D.
    """
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    d = {name: np.ones(array.shape) for name, array in arrays.items()}
    recorded = []
    power = 0.5 if scale == "multiply" else -0.5

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        s = smooth(step)
        z = {name: noise.normal(a.shape, Key(SEED, step, 0), name).astype(np.float64) for name, a in arrays.items()}
        base = loss()
        for name, array in arrays.items():
            array += EPS * z[name] * d[name] ** power
        up = loss()
        for name, array in arrays.items():
            array -= 2 * EPS * z[name] * d[name] ** power
        down = loss()
        for name, array in arrays.items():
            array += EPS * z[name] * d[name] ** power
        delta = up + down - 2 * base
        g = (up - down) / (2 * EPS)
        for name, array in arrays.items():
            if debiased:
                hessian = delta / (2 * EPS**2) * d[name] * (z[name] ** 2 - 1)
            else:
                hessian = abs(delta) / (2 * EPS**2) * d[name] ** (-2 * power) * z[name] ** 2
            new = (1 - s) * d[name] + s * hessian
            if array.ndim == 2:
                array *= 1 - LR * decay
            array -= LR * g * z[name] * (d[name] if order == "old" else new) ** power
            d[name] = new
        recorded += [base, up, down]
    return recorded, np.concatenate([entries.reshape(-1) for entries in d.values()])


def estimator(smooth: float = SMOOTH, decay: float = 0.0, **settings: Any) -> HiZOO:
    return HiZOO(eps=EPS, smooth=smooth, rule=Plain(lr=LR, decay=decay), **settings)


def run(toy: Toy, method: HiZOO, first: int = 0, last: int = STEPS, state: Any = None) -> list[float]:
    """Some steps of a run of STEPS, with a state that the test can look at."""
    recorded = []
    for step in range(first, last):
        oracle = toy.oracle(step, STEPS, SEED)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        recorded += oracle.answers
    toy.space.settle()
    return recorded


def flat(state: hizoo.State) -> np.ndarray:
    return np.concatenate([np.asarray(array, np.float64).reshape(-1) for array in state.h.arrays.values()])


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("order", ["old", "new"])
@pytest.mark.parametrize("scale", ["divide", "multiply"])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_hizoo_takes_the_steps_of_the_published_loop(
    order: Order, scale: Scale, decay: float, restore: Restore
) -> None:
    """The paper's order and the code's, its form of 2025 and that of 2024; losses, weights and curvature to 1e-9."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded, d = published_loop(plain, STEPS, lambda step: SMOOTH, order, decay, scale=scale)
    method = estimator(decay=decay, step_with=order, scale=scale)
    state = method.init(toy.space)
    answers = run(toy, method, state=state)
    np.testing.assert_allclose(answers, recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flat(state), d, rtol=1e-8)
    assert d.max() > 2 * d.min(), "the curvature took part"


def test_the_two_orders_differ_by_as_much_as_a_step_changes_the_curvature() -> None:
    """Along z/√D or z/√D′, on one step in which D′ is another."""
    moved = {}
    for order in ("old", "new"):
        toy = quadratic()
        start, method = toy.theta, estimator(step_with=order)
        state = method.init(toy.space)
        run(toy, method, last=1, state=state)
        moved[order] = toy.theta - start
    np.testing.assert_allclose(moved["new"] * np.sqrt(flat(state)), moved["old"], rtol=1e-7, atol=1e-12)
    assert np.abs(moved["new"] - moved["old"]).max() > 0.01 * np.abs(moved["old"]).max()


def test_the_debiased_form_takes_the_steps_of_its_loop() -> None:
    plain, toy = two_layers(), two_layers()
    recorded, d = published_loop(plain, STEPS, lambda step: 1e-3, debiased=True)
    method = estimator(smooth=1e-3, debiased=True)
    state = method.init(toy.space)
    np.testing.assert_allclose(run(toy, method, state=state), recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flat(state), d, rtol=1e-8)


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_with_smooth_zero_it_is_mezo(restore: Restore) -> None:
    """To the bit where probes are not written to the weights, else within the rounding of one more visit."""
    one, other = (two_layers(dtype="float32", restore=restore) for _ in range(2))
    train(one, estimator(smooth=0.0, decay=DECAY), STEPS, SEED)
    train(other, MeZO(eps=EPS, rule=Plain(lr=LR, decay=DECAY)), STEPS, SEED)
    if restore == "exact":
        assert one.bits == other.bits
    else:
        np.testing.assert_allclose(one.theta, other.theta, rtol=0, atol=1e-5)


D = 12
HESSIAN = np.diag(np.linspace(0.5, 3, D)) + 0.1
CURVATURE = np.linspace(0.5, 2, D)


def bowl() -> Toy:
    """½θᵀHθ of twelve weights."""
    start = np.random.default_rng(2).normal(size=D)
    return Toy(start, {"w": (D,)}, lambda theta: float(theta @ HESSIAN @ theta) / 2, lambda theta: HESSIAN @ theta)


def samples(
    noise: Noise, count: int, debiased: bool, hessian: np.ndarray = HESSIAN, h: np.ndarray = CURVATURE
) -> np.ndarray:
    """What `count` steps at h would mix into it, one a row: on a quadratic Δ is ε²zᵀh^(−½)Hh^(−½)z."""
    z = np.stack([noise.normal((D,), Key(SEED, step, 0), "w") for step in range(count)]).astype(np.float64)
    u = z / np.sqrt(h)
    bend = np.einsum("ij,ij->i", u @ hessian, u) / 2
    return bend[:, None] * h * (z**2 - (1 if debiased else 0))


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("eps", [1e-2, 1.0])
def test_the_second_difference_on_a_quadratic_is_exact_for_any_radius(noise: Noise, debiased: bool, eps: float) -> None:
    """What a step mixes into h, from the losses and from H."""
    expected = samples(noise, 5, debiased)
    for step in range(5):
        toy = bowl()
        method = replace(estimator(debiased=debiased), eps=eps, rule=Plain(lr=0.0))
        state = method.init(toy.space)
        state.h.arrays["w"][:] = CURVATURE
        run(toy, method, step, step + 1, state)
        mixed = (flat(state) - (1 - SMOOTH) * CURVATURE) / SMOOTH
        np.testing.assert_allclose(mixed, expected[step], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("debiased", [False, True])
def test_the_mean_of_what_is_mixed_in_is_known(noise: Noise, unbiased: Check, debiased: bool) -> None:
    """50,000 draws: diag(H) + ½ tr(H/D) D, and diag(H) where it is debiased."""
    diagonal = np.diag(HESSIAN)
    own = 0 if debiased else (diagonal / CURVATURE).sum() / 2 * CURVATURE
    unbiased(samples(noise, 50_000, debiased), diagonal + own, "curvature")


@pytest.mark.parametrize(("debiased", "factor"), [(False, (D + 2) / 2), (True, 1.0)])
def test_the_curvature_stays_on_average_at_a_multiple_of_the_diagonal(
    noise: Noise, unbiased: Check, debiased: bool, factor: float
) -> None:
    """H diagonal, 50,000 draws at h = (d + 2)/2 · diag(H), and at diag(H) debiased: the mean sample is h."""
    diagonal = np.linspace(0.5, 3, D)
    h = factor * diagonal
    unbiased(samples(noise, 50_000, debiased, np.diag(diagonal), h), h, "sample at the fixed point")


@pytest.mark.slow
@pytest.mark.parametrize(("debiased", "factor"), [(False, 3.0), (True, 1.0)])
def test_at_one_place_the_curvature_comes_to_a_multiple_of_the_diagonal(debiased: bool, factor: float) -> None:
    """Over time, d = 4: 4,000 steps at s = 0.003 from equal entries; h wanders by about a tenth."""
    diagonal = np.array([0.5, 1.0, 1.5, 3.0])
    toy = Toy(np.ones(4), {"w": (4,)}, lambda theta: float(diagonal @ theta**2) / 2)
    method = replace(estimator(smooth=0.003, debiased=debiased), eps=1.0, rule=Plain(lr=0.0))
    state = method.init(toy.space)
    state.h.arrays["w"][:] = factor * diagonal.mean()
    seen = []
    for step in range(4000):
        run(toy, method, step, step + 1, state)
        seen.append(flat(state))
    np.testing.assert_allclose(np.mean(seen[2000:], axis=0) / (factor * diagonal), 1, rtol=0, atol=0.25)


def test_the_curvature_stays_positive_and_never_falls_by_more_than_its_share() -> None:
    """D′ ≥ (1 − s) D, entry by entry."""
    toy, method = two_layers(), estimator()
    state = method.init(toy.space)
    before = flat(state)
    for step in range(20):
        run(toy, method, step, step + 1, state)
        after = flat(state)
        assert (after >= (1 - SMOOTH) * before * (1 - 1e-12)).all()
        assert np.isfinite(after).all()
        before = after


def test_without_curvature_it_falls_to_its_lower_bound_and_no_further() -> None:
    """On a linear loss D is (1 − s)^t, and the step grows as 1/D."""
    toy, method = linear(), estimator(smooth=0.1, lowest=0.25)
    state = method.init(toy.space)
    for step in range(20):
        run(toy, method, step, step + 1, state)
        np.testing.assert_allclose(flat(state), max(0.9 ** (step + 1), 0.25), rtol=1e-6)


def test_strong_curvature_stops_at_the_upper_bound_and_a_negative_sample_at_the_lower_one() -> None:
    """The debiased sample can be negative, and h cannot."""
    toy, method = quadratic(), estimator(smooth=0.5, highest=4.0)
    state = method.init(toy.space)
    run(toy, method, last=3, state=state)
    assert flat(state).max() == 4.0
    method = estimator(smooth=0.5, debiased=True, lowest=0.125)
    state = method.init(toy.space)
    run(toy, method, last=1, state=state)
    assert flat(state).min() == 0.125


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("smooth", [1e-8, 1e-6])
def test_a_tiny_smooth_moves_the_curvature_beside_weights_in_16_bits(dtype: str, smooth: float) -> None:
    """h is float32, and s b h z² comes through at s = 10⁻⁸ where float16 would round it away."""
    toy = quadratic(dtype=dtype, restore="exact")
    method = replace(estimator(smooth=smooth), eps=1.0)
    state = method.init(toy.space)
    run(toy, method, last=20, state=state)
    assert {array.dtype for array in state.h.arrays.values()} == {np.dtype("float32")}
    moved = flat(state) - 1
    assert (moved > 0).mean() > 0.5
    assert moved.max() < 1e4 * smooth


def test_smooth_follows_the_run_step_by_step() -> None:
    """A factor on s from a share of the run on, as in "1e-6 up to step 9800 of 20,000, then 1e-8"."""
    plain, toy = two_layers(), two_layers()
    recorded, d = published_loop(plain, STEPS, lambda step: SMOOTH if step < 16 else SMOOTH / 100)
    method = estimator(fade=0.01, fade_at=0.4)
    state = method.init(toy.space)
    np.testing.assert_allclose(run(toy, method, state=state), recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flat(state), d, rtol=1e-8)


def test_a_run_that_is_only_limited_in_time_cannot_have_a_smooth_that_fades() -> None:
    given = {"device": "reference", "max_seconds": 5}
    resolve({**given, "estimator": HiZOO()})
    with pytest.raises(ZoplatError, match="--max-passes"):
        resolve({**given, "estimator": HiZOO(fade=0.01)})


@pytest.mark.parametrize("order", ["old", "new"])
def test_a_step_costs_three_forward_passes_and_what_it_says(order: Order) -> None:
    """The clean loss is one of the three, and none is made for the log."""
    toy, method, steps = two_layers(), estimator(step_with=order), 20
    passes: list[float] = []
    loss = toy.loss

    def counted(theta: Any) -> float:
        passes.append(loss(theta))
        return passes[-1]

    toy.loss = counted
    state = method.init(toy.space)
    clean = [loss(toy.theta)]
    recorded = run(toy, method, last=1, state=state)
    assert recorded[:1] == clean
    run(toy, method, 1, steps, state)
    assert len(passes) == 3 * steps
    assert toy.space.passes_over_weights == pytest.approx({"old": 3, "new": 4}[order] * steps, abs=1)
    [buffer] = toy.space.buffers
    assert buffer.bytes == 8 * toy.space.size  # one number a weight, float64 here


@pytest.mark.parametrize("order", ["old", "new"])
def test_a_run_replays_bit_for_bit(order: Order) -> None:
    again, first = two_layers(dtype="float32"), two_layers(dtype="float32")
    method = estimator(decay=DECAY, step_with=order, fade=0.1)
    answers = train(first, method, STEPS)
    train(again, method, STEPS, answers=answers)
    assert again.bits == first.bits


def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends() -> None:
    """To the bit."""
    method, unbroken, resumed = estimator(decay=DECAY), two_layers(dtype="float32"), two_layers(dtype="float32")
    state, fresh = method.init(unbroken.space), method.init(resumed.space)
    run(unbroken, method, 0, 17, state)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
        fresh.h.arrays[block.name][:] = state.h.arrays[block.name]
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    run(unbroken, method, 17, STEPS, state)
    run(resumed, method, 17, STEPS, fresh)
    assert resumed.bits == unbroken.bits


def test_beside_one_steep_side_it_bears_a_step_size_at_which_mezo_rises() -> None:
    """What the method is for: curvatures 100 and 1 of ten weights."""
    diagonal = np.array([100.0, *np.ones(9)])
    ends = {}
    for method in (MeZO(eps=EPS), HiZOO(eps=EPS, smooth=1e-3)):
        toy = Toy(np.ones(10), {"w": (10,)}, lambda theta: float(diagonal @ theta**2) / 2)
        before = toy.loss(toy.theta)
        train(toy, replace(method, rule=Plain(lr=0.02)), 200, SEED)
        ends[type(method)] = toy.loss(toy.theta) / before
    assert ends[HiZOO] < 0.1
    assert ends[MeZO] > 10


def test_the_loss_falls() -> None:
    toy = two_layers()
    before = toy.loss(toy.theta)
    train(toy, replace(estimator(), rule=Plain(lr=0.02)), 80, SEED)
    assert toy.loss(toy.theta) < 0.8 * before


@pytest.mark.parametrize(
    ("field", "value"),
    [("eps", 0.0), ("smooth", 1.0), ("smooth", -1e-9), ("fade", -1.0), ("fade_at", 1.5), ("lowest", 2.0)],
)
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=field):
        replace(HiZOO(), **{field: value})


def test_the_debiased_sample_belongs_to_the_form_that_divides() -> None:
    with pytest.raises(ZoplatError, match='debiased belongs to scale "divide"'):
        HiZOO(scale="multiply", debiased=True)
    assert HiZOO(scale="multiply").bias.endswith("h∇L")


def test_what_is_registered_is_the_papers_form() -> None:
    registered: Any = hizoo.zoplat_estimators()
    assert set(registered) == {"hizoo"}
    assert registered["hizoo"] == HiZOO()
    assert (registered["hizoo"].step_with, registered["hizoo"].debiased) == ("old", False)
    assert registered["hizoo"].scale == "divide"
