"""AdaMeZO against a plain transcription of its update (arXiv:2605.00650), and properties of the rule."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from zoplat import ZERO, Estimate, Key, Part, Sampler, SkipStep, StepRule, ZoplatError, held
from zoplat.registry import catalogue
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.laws import traced_fill
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import adamezo
from zoplat_plugins.adamezo import AdaMeZO, Moments
from zoplat_plugins.block_zo import BlockZO
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.zo_sgd_mmt import Momentum

SEED, EPS, LR, DECAY = 5, 1e-2, 2e-3, 0.05
BETA1, BETA2, WINDOW, FLOOR = 0.7, 0.9, 4, 1e-6


def published_loop(toy: Toy, steps: int, queries: int = 1, decay: float = 0.0) -> list[float]:
    """The published update on the toy's own arrays, the last g in a list; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    past: list[dict[str, np.ndarray]] = []
    recorded = []

    def loss(z: dict[str, np.ndarray], amount: float) -> float:
        recorded.append(toy.loss(np.concatenate([(a + amount * z[n]).reshape(-1) for n, a in arrays.items()])))
        return recorded[-1]

    for step in range(steps):
        g = {name: np.zeros(array.shape) for name, array in arrays.items()}
        for query in range(queries):
            z = {n: noise.normal(a.shape, Key(SEED, step, query), n).astype(np.float64) for n, a in arrays.items()}
            slope = (loss(z, EPS) - loss(z, -EPS)) / (2 * EPS)
            for name in arrays:
                g[name] += slope / queries * z[name]
        past = [*past, g][-WINDOW:]
        for name, array in arrays.items():
            m, v = np.zeros(array.shape), np.zeros(array.shape)
            for i in range(len(past)):
                m += (1 - BETA1) * BETA1**i * past[-1 - i][name]
                v += (1 - BETA2) * BETA2**i * past[-1 - i][name] ** 2
            if array.ndim == 2:
                array *= 1 - LR * decay
            array -= LR * m / np.sqrt(v + FLOOR)
    return recorded


def rule(window: int = WINDOW, lr: float = LR, decay: float = 0.0) -> AdaMeZO:
    return AdaMeZO(Plain(lr=lr, decay=decay), BETA1, BETA2, window, FLOOR)


def estimator(queries: int = 1, decay: float = 0.0, window: int = WINDOW) -> MeZO:
    return MeZO(EPS, queries, rule=rule(window, decay=decay))


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (3, DECAY)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize("make", [quadratic, two_layers])
def test_adamezo_takes_the_published_steps(
    make: Callable[..., Toy], restore: Restore, queries: int, decay: float
) -> None:
    """25 steps, of which the first three have fewer than h before them."""
    plain, toy = make(), make(restore=restore)
    recorded = published_loop(plain, 25, queries, decay)
    answers = train(toy, estimator(queries, decay), steps=25, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def adam(estimates: list[np.ndarray]) -> np.ndarray:
    """m/√(v + ε) of Adam's recursion without its corrections, after some estimates."""
    m, v = np.zeros_like(estimates[0]), np.zeros_like(estimates[0])
    for g in estimates:
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
    found: np.ndarray = m / np.sqrt(v + FLOOR)
    return found


def moves(toy: Toy, method: MeZO, steps: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each step its estimate, and what the rule moved θ by over −η, entry by entry."""
    state, estimates, moved = method.rule.init(toy.space), [], []
    for step in range(steps):
        oracle, before = toy.oracle(step, steps, seed=SEED), toy.theta
        for estimate in method.estimate(oracle, None):
            estimates.append(toy.entries(estimate.direction))
            method.rule.apply(estimate, oracle, state)
        moved.append((toy.theta - before) / -LR)
    return estimates, moved


def test_with_a_window_of_the_whole_run_the_moments_are_those_of_adam() -> None:
    estimates, moved = moves(two_layers(), estimator(queries=2, window=12), 12)
    for t in range(12):
        np.testing.assert_allclose(moved[t], adam(estimates[: t + 1]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("law", [LowRank(3, 2), Rademacher(), catalogue().entry("sampler", "row-signs").value])
def test_any_law_can_be_drawn_again(law: Sampler) -> None:
    """Low rank with V renewed inside of the window, signs, and signs of rows and columns that share U."""
    method = replace(estimator(queries=2), sampler=law)
    estimates, moved = moves(two_layers(), method, 9)
    for t in range(9):
        np.testing.assert_allclose(moved[t], adam(estimates[max(0, t + 1 - WINDOW) : t + 1]), rtol=1e-5, atol=1e-5)


def test_blocks_that_a_step_leaves_out_have_an_estimate_of_zero_in_it() -> None:
    """Draws on one block each, in turn: only blocks that the window has seen move, all by their own moments."""
    toy, state = linear(), (method := rule()).init(linear().space)
    parts = [Part(frozenset({block.name})) for block in toy.space.blocks]
    estimates: list[np.ndarray] = []
    for step in range(2 * len(parts) + 1):
        z = toy.space.draw(Gaussian(), Key(SEED, step, 0)).on(parts[step % len(parts)])
        estimates.append(toy.entries(1.5 * z))
        before = toy.theta
        method.apply(Estimate(1.5 * z), toy.oracle(step), state)
        moved = (toy.theta - before) / -LR
        expected = adam(estimates[-WINDOW:])
        np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-6)
        unseen = np.all([g == 0 for g in estimates[-WINDOW:]], axis=0)
        assert (moved[unseen] == 0).all()


def test_it_goes_with_a_method_that_probes_part_after_part() -> None:
    toy = two_layers()
    before = toy.loss(toy.theta)
    train(toy, BlockZO(eps=EPS, rule=rule(lr=1e-2)), steps=80)
    assert toy.loss(toy.theta) < 0.9 * before


def test_steps_that_saw_equal_losses_count_and_add_nothing() -> None:
    """g, 0, 0, 0, 0: m = (1 − β₁)β₁²g after three, and h steps later nothing is left of g."""
    toy, state = linear(), (method := rule()).init(linear().space)
    z = toy.space.draw(Gaussian(), Key(SEED, 0, 0))
    entries = toy.entries(z)
    moved = []
    for step in range(5):
        before = toy.theta
        method.apply(Estimate(z if step == 0 else ZERO), toy.oracle(step), state)
        moved.append((toy.theta - before) / -LR)
    m, v = (1 - BETA1) * BETA1**2 * entries, (1 - BETA2) * BETA2**2 * entries**2
    np.testing.assert_allclose(moved[2], m / np.sqrt(v + FLOOR), rtol=1e-6, atol=1e-6)
    assert (moved[4] == 0).all()
    assert state.window == [ZERO] * WINDOW


@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_adamezo_replays_bit_for_bit_and_learns(dtype: str, restore: Restore) -> None:
    run, again = (two_layers(dtype=dtype, restore=restore) for _ in range(2))
    before = run.loss(run.theta)
    method = replace(estimator(decay=DECAY), rule=rule(lr=3e-3, decay=DECAY))
    answers = train(run, method, steps=60)
    train(again, method, steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


def test_nothing_of_the_size_of_the_weights_is_kept() -> None:
    toy = two_layers()
    state = rule().init(toy.space)
    for step in range(9):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in estimator().estimate(oracle, None):
            rule().apply(estimate, oracle, state)
    assert toy.space.buffers == []
    assert [next(iter(g))[0].key.step for g in state.window] == [8, 7, 6, 5]


def test_the_law_of_the_moments_is_never_traced() -> None:
    """Its constants change at every step: traced, each step would leave a program behind, and compile one on a GPU."""
    toy = linear()
    [z] = toy.oracle(0).draw(Gaussian(), 1)
    law = Moments((tuple(2.0 * z),), BETA1, BETA2, FLOOR)
    for block in toy.space.blocks:
        assert traced_fill(law, next(block.tiles()), Key(0, 0, 0)) is None


def test_what_may_change_after_a_step_is_refused_by_name() -> None:
    toy = linear()
    buffer = toy.space.buffer("some/h", fill=1.0)
    z = toy.space.draw(Gaussian(), Key(SEED, 0, 0))
    for direction, found in ((z.scaled(buffer, -0.5), "a buffer.*Gaussian"), (held(buffer), "a buffer.*Held")):
        method, state = rule(), rule().init(toy.space)
        with pytest.raises(ZoplatError, match=f"'adamezo' .*{found}"):
            method.apply(Estimate(z + direction), toy.oracle(0), state)
        assert state.window == []


NAMELESS = ["conmezo", "sparse-mezo", "hizoo", "sgd", "adamw", "hybrid", "agzo", "zo-muon"]


@pytest.mark.parametrize("step_rule", [AdaMeZO(), Momentum(keep=8)], ids=["adamezo", "momentum"])
@pytest.mark.parametrize("name", NAMELESS)
def test_methods_whose_estimates_later_steps_can_not_draw_again_are_refused(name: str, step_rule: StepRule) -> None:
    """At the first step, or at the first whose estimate has a buffer in it, such as conmezo's second."""
    method = replace(catalogue().entry("estimator", name).value, rule=step_rule)
    with pytest.raises(ZoplatError, match=r"makes earlier estimates again from their names.* Use another --step-rule"):
        train(two_layers(), method, steps=2)


def test_an_estimate_that_is_not_finite_skips_the_step_and_leaves_the_window() -> None:
    toy, method = linear(), rule()
    state, start = method.init(toy.space), toy.theta
    z = toy.space.draw(Gaussian(), Key(SEED, 0, 0))
    with pytest.raises(SkipStep, match="not finite"):
        method.apply(Estimate(1e39 * z), toy.oracle(0), state)
    assert state.window == []
    assert (toy.theta == start).all()


def test_the_rate_follows_the_schedule() -> None:
    method, toy = AdaMeZO(Cosine(lr=0.3)), linear()
    assert method.has_horizon
    assert method.rate(toy.oracle(500, 1000)) == pytest.approx(0.15)


def test_what_is_registered_is_mezo_with_this_rule() -> None:
    registered = adamezo.zoplat_step_rules()["adamezo"]
    assert adamezo.zoplat_estimators()["adamezo"] == MeZO(rule=registered)
    assert (registered.beta1, registered.beta2, registered.window) == (0.7, 0.9, 10)


@pytest.mark.parametrize(("name", "value"), [("beta1", 1.0), ("beta2", -0.1), ("window", 0), ("eps", 0.0)])
def test_a_field_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=f"{name} must .*, got {value}"):
        AdaMeZO(**{name: value})  # type: ignore[arg-type]
