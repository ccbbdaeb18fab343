"""FZOO against plain transcriptions of the step of arXiv:2506.09034 and of the authors' code, and its properties."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import ZERO, Estimate, Estimator, Key, Noise, SkipStep, ZoplatError
from zoplat.core.errors import NonFinite
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import fzoo
from zoplat_plugins.fzoo import FZOO, Normalized
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rademacher import Rademacher

SEED, EPS, LR, DECAY, N, STEPS = 5, 1e-3, 2e-2, 0.05, 8, 30
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(
    toy: Toy,
    steps: int,
    lr: float,
    form: Literal["paper", "code"],
    reuse: bool = False,
    decay: float = 0.0,
    queries: int = N,
) -> list[float]:
    """The loop on the toy's own arrays, in the paper's form or the code's, each with its own lr; returns the losses.

    With `reuse` a step after the first draws half as many and takes the spread over the last step's losses too.
    """
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []
    last: list[float] = []

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        count = queries // 2 if last else queries
        signs = [
            {name: noise.sign(a.shape, Key(SEED, step, i), name).astype(np.float64) for name, a in arrays.items()}
            for i in range(count)
        ]
        base, seen = loss(), []
        for u in signs:
            for name, array in arrays.items():
                array += EPS * u[name]
            seen.append(loss())
            for name, array in arrays.items():
                array -= EPS * u[name]
        spread = np.array(seen + last)
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - lr * decay
        for u, rise in zip(signs, np.array(seen) - base, strict=True):
            for name, array in arrays.items():
                if form == "paper":
                    array -= lr * (rise / (EPS * count)) / spread.std(ddof=1) * u[name]
                else:
                    array -= lr * rise / (count * spread.std()) * u[name]
        last = seen[-(queries // 2) :] if reuse else []
        recorded += [base, *seen]
    return recorded


def estimator(
    convention: Literal["paper", "code"] = "code", lr: float = LR, decay: float = 0.0, **settings: Any
) -> FZOO:
    rule = Normalized(schedule=Plain(lr=lr, decay=decay), convention=convention)
    return FZOO(eps=EPS, rule=rule, **settings)


def run(toy: Toy, method: Estimator, first: int = 0, last: int = STEPS, state: Any = None) -> list[list[float]]:
    """Some steps, a skipped one as the engine skips it, with a state that the test can look at."""
    recorded = []
    for step in range(first, last):
        oracle = toy.oracle(step, STEPS, SEED)
        try:
            for estimate in method.estimate(oracle, state):
                method.rule.apply(estimate, oracle, None)
        except SkipStep:
            pass
        recorded.append(oracle.answers)
    toy.space.settle()
    return recorded


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_fzoo_takes_the_steps_of_the_published_loop(form: Literal["paper", "code"], reuse: bool, decay: float) -> None:
    """Losses and weights, to 1e-9 of float64; FZOO-R too."""
    plain, toy, lr = two_layers(), two_layers(), LR if form == "code" else LR * EPS
    recorded = published_loop(plain, STEPS, lr, form, reuse, decay)
    answers = train(toy, estimator(form, lr, decay, reuse=reuse), STEPS, SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("reuse", "queries"), [(False, 8), (True, 8), (False, 3)])
def test_the_papers_step_size_and_the_codes_coincide_after_conversion(reuse: bool, queries: int) -> None:
    """Η of the code = η of the paper / ε · √((N − 1)/N)."""
    ends = []
    for form, lr in (("paper", LR * EPS), ("code", LR * ((queries - 1) / queries) ** 0.5)):
        toy = two_layers()
        train(toy, estimator(form, lr, reuse=reuse, queries=queries), STEPS, SEED)  # type: ignore[arg-type]
        ends.append(toy.theta)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("reuse", [False, True])
def test_the_step_does_not_know_the_scale_of_the_loss_nor_a_constant_in_it(reuse: bool) -> None:
    toy, other = two_layers(), two_layers()
    loss = other.loss
    other.loss = lambda theta: 3 * loss(theta) + 7
    for one in (toy, other):
        train(one, estimator(reuse=reuse), 10, SEED)
    np.testing.assert_allclose(other.theta, toy.theta, rtol=0, atol=1e-7)


def test_losses_that_are_equal_skip_the_step_and_change_nothing() -> None:
    """Not 0/0; decay too is left out. The sum of eight equal losses may not be eight times one of them."""
    toy = linear(restore="exact")
    toy.loss = lambda theta: 0.1
    bits, method = toy.bits, estimator(decay=0.5)
    oracle = toy.oracle(0, seed=SEED)
    [estimate] = method.estimate(oracle, method.init(toy.space))
    with pytest.raises(SkipStep, match="spread") as caught:
        method.rule.apply(estimate, oracle, None)
    assert not isinstance(caught.value, NonFinite)
    assert toy.bits == bits


@pytest.mark.parametrize(("floor", "skipped"), [(1e-9, False), (10.0, True)])
def test_the_floor_says_which_spread_is_too_small(floor: float, skipped: bool) -> None:
    toy = linear(restore="exact")
    bits, method = toy.bits, replace(estimator(), rule=replace(Normalized(), floor=floor))
    run(toy, method, last=1, state=method.init(toy.space))
    assert (toy.bits == bits) == skipped


def test_the_spread_is_eps_times_the_length_of_the_gradient(noise: Noise, unbiased: Check) -> None:
    """5,000 steps of N = 8 on a linear loss: E σ² = ε²‖a‖² with divisor N − 1, (N − 1)/N of it with N."""
    toy = linear({"w": (12,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    u = signs(noise, 5000, 12)
    norm = float(gradient @ gradient)
    unbiased((u @ gradient).var(axis=1, ddof=1), norm, "variance, N − 1")
    unbiased((u @ gradient).var(axis=1), norm * (N - 1) / N, "variance, N")
    method = replace(estimator(), eps=1.0)
    [estimate] = method.estimate(toy.oracle(0, seed=SEED), method.init(toy.space))
    np.testing.assert_allclose(np.var(estimate.losses), (u[0] @ gradient).var(), rtol=1e-9)


@pytest.mark.slow
def test_the_mean_direction_is_that_of_the_gradient(noise: Noise, unbiased: Check) -> None:
    """d = 30, N = 8, 20,000 steps: E⟨g, a⟩ = ‖a‖²; after division a cosine above 0.999 and a length of 0.99."""
    gradient = np.random.default_rng(4).normal(size=30)
    norm = float(np.linalg.norm(gradient))
    u = signs(noise, 20_000, 30)
    slopes = u @ gradient
    g = np.einsum("si,sid->sd", slopes, u) / N
    unbiased(g @ gradient / norm**2, 1.0, "slope along the gradient")
    step = g / slopes.std(axis=1, ddof=1)[:, None]
    mean = step.mean(axis=0)
    assert mean @ gradient / norm == pytest.approx(0.99, abs=0.02)
    error = step.std(axis=0) / len(step) ** 0.5  # what is off the gradient, beside what chance leaves there
    off = mean - mean @ gradient / norm**2 * gradient
    assert (off @ off - error @ error) / (mean @ mean) < 1 - 0.999**2
    assert np.median(np.linalg.norm(step, axis=1)) == pytest.approx(1.1 * (30 / N) ** 0.5, rel=0.1)


def signs(noise: Noise, steps: int, size: int) -> np.ndarray:
    """The directions of many steps by their addresses, (steps, N, size)."""
    u = [[noise.sign((size,), Key(SEED, step, i), "w") for i in range(N)] for step in range(steps)]
    return np.array(u, dtype=np.float64)


def test_directions_are_signs_without_mean_or_correlation(noise: Noise, unbiased: Check) -> None:
    """2,000 steps of 8 directions of 12 entries."""
    u = signs(noise, 2000, 12)
    toy = linear({"w": (12,)})
    drawn = [toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(Rademacher(), N)]
    np.testing.assert_array_equal(np.stack(drawn), u[0])
    assert set(np.unique(u)) == {-1.0, 1.0}
    flat = u.reshape(2000, -1)
    unbiased(flat, np.zeros(flat.shape[1]), "mean")
    pairs = np.random.default_rng(0).choice(flat.shape[1], size=(500, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    unbiased(flat[:, pairs[:, 0]] * flat[:, pairs[:, 1]], np.zeros(len(pairs)), "product of two entries")


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("reuse", [False, True])
def test_one_batched_pass_gives_the_losses_of_sequential_evaluation(dtype: str, atol: float, reuse: bool) -> None:
    """Every block, with the ε of the settings; all points of a step are asked in one question."""
    sequential, batched = two_layers(dtype=dtype), two_layers(dtype=dtype)
    batched.strategy = "batched"
    asked: list[int] = []
    losses_at = batched.losses_at
    batched.losses_at = lambda directions: asked.append(len(directions)) or losses_at(directions)  # type: ignore
    method = replace(estimator(reuse=reuse), eps=1e-2, rule=Plain(lr=1e-3))
    one, other = train(sequential, method, 10, SEED), train(batched, method, 10, SEED)
    assert asked == ([9, *[5] * 9] if reuse else [9] * 10)
    np.testing.assert_allclose([a for step in one for a in step], [a for step in other for a in step], atol=atol)
    np.testing.assert_allclose(sequential.theta, batched.theta, rtol=0, atol=10 * atol)
    assert batched.space.passes_over_weights < 2 * 10


@pytest.mark.parametrize(("reuse", "first", "then"), [(False, 9, 9), (True, 9, 5)])
def test_a_step_costs_the_passes_that_it_says(reuse: bool, first: int, then: int) -> None:
    """N + 1, or N/2 + 1 after a first step of N + 1."""
    toy, method, steps = two_layers(), estimator(reuse=reuse), 10
    passes: list[int] = []
    loss = toy.loss
    toy.loss = lambda theta: passes.append(1) or loss(theta)  # type: ignore[func-returns-value]
    recorded = train(toy, method, steps, SEED)
    assert [len(answers) for answers in recorded] == [first] + [then] * (steps - 1)
    assert len(passes) == first + then * (steps - 1)
    assert toy.space.passes_over_weights == pytest.approx(first + then * (steps - 1), abs=1)
    assert not toy.space.buffers


def test_the_spread_of_fzoo_r_is_over_n_losses_of_two_steps() -> None:
    """Those of this step, then the newest of the step before."""
    toy, method = two_layers(), estimator(reuse=True)
    state, seen = method.init(toy.space), []
    for step in range(4):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in method.estimate(oracle, state):
            seen.append((list(estimate.losses), oracle.answers[1:]))
            method.rule.apply(estimate, oracle, None)
    assert [len(losses) for losses, _ in seen] == [N] * 4
    assert seen[0][0] == seen[0][1]
    for (losses, answers), (_, before) in zip(seen[1:], seen, strict=False):
        assert losses == answers + before[-N // 2 :]


class Uneven:
    """A loss that is flat or not finite on some steps, by the count of the questions."""

    def __init__(self, toy: Toy, flat: set[int], infinite: set[int]) -> None:
        self.toy, self.loss, self.step = toy, toy.loss, -1
        self.flat, self.infinite = flat, infinite

    def __call__(self, theta: np.ndarray) -> float:
        if self.step in self.infinite:
            return float("inf")
        return 1.0 if self.step in self.flat else float(self.loss(theta))


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_a_skipped_step_leaves_the_losses_of_the_step_before_in_the_run_and_in_its_replay(restore: Restore) -> None:
    """The first step may be among them: the next one then falls back to N in its place."""
    floor = 1e-12
    method = replace(estimator(reuse=True), rule=replace(estimator().rule, floor=floor))
    first, again = (two_layers(dtype="float32", restore=restore) for _ in range(2))
    uneven = Uneven(first, flat={0, 5, 6, 7}, infinite={1, 9})
    first.loss = uneven
    state, replayed = method.init(first.space), method.init(again.space)
    recorded, kept = [], []
    for step in range(14):
        uneven.step = step
        recorded += run(first, method, step, step + 1, state)
        kept.append(list(state.previous))
    assert kept[0] == kept[1] == []
    assert [len(answers) for answers in recorded[:4]] == [9, 9, 9, 5]
    assert kept[4] != kept[5] == [1.0] * 4, "flat losses beside other ones of the step before have a spread"
    assert kept[5] == kept[6] == kept[7] != kept[8], "flat losses beside flat ones have none"
    assert kept[9] == kept[8]
    for step in range(14):
        oracle = again.oracle(step, STEPS, SEED, recorded[step])
        try:
            for estimate in method.estimate(oracle, replayed):
                method.rule.apply(estimate, oracle, None)
        except SkipStep:
            pass
        assert oracle.answers == recorded[step]
        assert replayed.previous == kept[step]
    assert again.bits == first.bits


@pytest.mark.parametrize("reuse", [False, True])
def test_a_run_replays_bit_for_bit(reuse: bool) -> None:
    first, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    method = estimator(decay=DECAY, reuse=reuse)
    answers = train(first, method, STEPS)
    train(again, method, STEPS, answers=answers)
    assert again.bits == first.bits


def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends() -> None:
    """To the bit, for FZOO-R, whose last losses are all there is to keep."""
    method = estimator(reuse=True)
    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    state = method.init(unbroken.space)
    run(unbroken, method, 0, 12, state)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    resumed.space.reset()
    fresh = state_from_json(
        method.init(resumed.space), json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space
    )
    run(unbroken, method, 12, STEPS, state)
    run(resumed, method, 12, STEPS, fresh)
    assert resumed.bits == unbroken.bits


@pytest.mark.parametrize("reuse", [False, True])
def test_the_loss_falls(reuse: bool) -> None:
    toy = two_layers()
    before = toy.loss(toy.theta)
    train(toy, estimator(reuse=reuse), 60, SEED)
    assert toy.loss(toy.theta) < 0.8 * before


def test_with_mezo_the_rule_steps_by_the_sign_of_the_slope() -> None:
    """Two losses: σ with divisor N is half their difference, so η·ε·ĝ/σ is ±η z whatever ε."""
    toy = quadratic()
    start = toy.theta
    [z] = toy.oracle(0, seed=SEED).draw(Rademacher(), 1)
    in_code = Normalized(schedule=Plain(lr=LR), convention="code")
    train(toy, MeZO(eps=0.3, sampler=Rademacher(), rule=in_code), 1, SEED)
    moved = toy.theta - start
    np.testing.assert_allclose(np.abs(moved), LR, rtol=1e-9)
    assert len(set(np.sign(moved * toy.entries(z)))) == 1


def test_the_rule_refuses_an_estimate_without_losses_to_judge_it_by() -> None:
    toy = quadratic()
    with pytest.raises(ZoplatError, match="at least 2 losses") as caught:
        Normalized().apply(Estimate(ZERO, [1.0]), toy.oracle(0), None)
    assert not isinstance(caught.value, SkipStep)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (FZOO(), "eps", 0.0),
        (FZOO(), "queries", 1),
        (FZOO(reuse=True), "queries", 7),
        (Normalized(), "floor", -1.0),
        (Normalized(), "floor", float("nan")),
    ],
)
def test_settings_that_make_no_sense_are_refused(part: Any, field: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=field):
        replace(part, **{field: value})


def test_what_is_registered_is_one_class_twice_and_the_settings_of_the_authors() -> None:
    registered: Any = fzoo.zoplat_estimators()
    assert registered["fzoo-r"] == replace(registered["fzoo"], reuse=True)
    method = registered["fzoo"]
    assert (method.eps, method.queries, method.sampler) == (1e-4, 8, Rademacher())
    assert (method.rule.convention, method.rule.rate(quadratic().oracle(0))) == ("paper", 5e-9)
