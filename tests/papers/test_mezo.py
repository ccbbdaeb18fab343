"""MeZO against a plain transcription of Algorithms 1 and 2 of arXiv:2305.17333, and its properties."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import Direction, Key, Noise, Oracle, Sampler, StepRule, Tile, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.losses import LossBackend
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, cubic, linear, quadratic, train, two_layers
from zoplat.testing.toys import ToyLosses
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import zo_sgd
from zoplat_plugins.constant import Constant
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.sphere import Sphere

SEED, EPS, LR, DECAY = 5, 1e-2, 2e-3, 0.05
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(toy: Toy, steps: int, queries: int, lr: Callable[[int], float], decay: float = 0.0) -> list[float]:
    """The loop of the paper on the toy's own arrays: perturb, restore, step; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []

    def perturb(step: int, query: int, amount: float) -> None:
        for name, array in arrays.items():
            array += amount * noise.normal(array.shape, Key(SEED, step, query), name).astype(np.float64)

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        g = []
        for query in range(queries):
            perturb(step, query, +EPS)
            up = loss()
            perturb(step, query, -2 * EPS)
            down = loss()
            perturb(step, query, +EPS)
            g.append((up - down) / (2 * EPS))
            recorded += [up, down]
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - lr(step) * decay
        for query in range(queries):
            perturb(step, query, -lr(step) * g[query] / queries)
    return recorded


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (1, DECAY), pytest.param(3, DECAY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_mezo_takes_the_steps_of_the_published_loop(queries: int, decay: float, restore: Restore) -> None:
    """120 steps in float64; losses and weights agree to 1e-9, which leaves room for rounding and no more."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 120, queries, lambda step: LR, decay)
    estimator = MeZO(eps=EPS, queries=queries, rule=Plain(lr=LR, decay=decay))
    answers = train(toy, estimator, steps=120, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_mezo_with_a_schedule_takes_the_steps_of_the_published_loop() -> None:
    rule = Cosine(lr=5e-3, warmup=10, decay=0.1)
    plain, toy = two_layers(), two_layers()

    def lr(step: int) -> float:
        return 5e-3 * min((step + 1) / 10, (1 + np.cos(np.pi * step / 150)) / 2)

    published_loop(plain, 150, 1, lr, decay=0.1)
    train(toy, MeZO(eps=EPS, rule=rule), steps=150, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def slope_of(toy: Toy, estimator: MeZO, step: int) -> tuple[float, np.ndarray]:
    """The projected gradient of one step that is not taken, and its z."""
    oracle = toy.oracle(step, seed=SEED)
    [estimate] = estimator.estimate(oracle, None)
    [z] = toy.oracle(step, seed=SEED).draw(estimator.sampler, 1)
    up, down = estimate.losses
    toy.space.settle()
    return (up - down) / (2 * estimator.eps), toy.entries(z)


@pytest.mark.parametrize("eps", [1e-3, 1.0, 10.0])
def test_the_slope_on_a_quadratic_is_exact_for_any_radius(eps: float) -> None:
    """To 1e-9 of |∇L|·|z|."""
    toy = quadratic()
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    for step in range(10):
        g, z = slope_of(toy, MeZO(eps=eps), step)
        assert abs(g - gradient @ z) <= 1e-9 * np.linalg.norm(gradient) * np.linalg.norm(z)


def many(noise: Noise, law: Sampler, count: int, size: int) -> np.ndarray:
    """Draws 0 … count of a law, by their addresses, one a row; what a space of one vector "w" would see."""
    make = noise.sign if isinstance(law, Rademacher) else noise.normal
    z = np.stack([make((size,), Key(SEED, 0, draw), "w") for draw in range(count)]).astype(np.float64)
    if isinstance(law, Sphere):
        z *= size**0.5 / np.linalg.norm(z, axis=1, keepdims=True)
    return z


@pytest.mark.parametrize("law", [Gaussian(), Rademacher(), Sphere()], ids=repr)
def test_the_draws_used_for_averages_below_are_those_of_the_platform(noise: Noise, law: Sampler) -> None:
    toy = linear({"w": (12,)})
    drawn = [toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(law, 5)]
    np.testing.assert_allclose(np.stack(drawn), many(noise, law, 5, 12), rtol=1e-6, atol=0)


def test_the_mean_estimate_is_the_gradient_of_the_smoothed_loss(noise: Noise, unbiased: Check) -> None:
    """50,000 draws: E ĝ = ∇Q + 3κ(θ² + ε²) for Gaussian z; at this ε the term shows."""
    toy, eps, kappa = cubic({"w": (6,)}, kappa=0.1), 0.7, 0.1
    assert toy.gradient is not None
    theta = toy.theta
    z = many(noise, Gaussian(), 50_000, 6)
    losses = [np.array([toy.loss(theta + sign * eps * row) for row in z]) for sign in (1, -1)]
    g = (losses[0] - losses[1]) / (2 * eps)
    platform = [toy.entries(e.direction) for e in MeZO(eps=eps).estimate(toy.oracle(0, seed=SEED), None)]
    np.testing.assert_allclose(platform[0], g[0] * z[0], rtol=1e-9)
    unbiased(g[:, None] * z, toy.gradient(theta) + 3 * kappa * eps**2, "mean estimate on a cubic")


@pytest.mark.parametrize(
    ("law", "extra"),
    [(Gaussian(), 2), (Rademacher(), 0), (Sphere(), 0)],
    ids=["gaussian", "rademacher", "sphere"],
)
def test_the_second_moment_of_one_estimate_is_that_of_its_law(
    noise: Noise, unbiased: Check, law: Sampler, extra: int
) -> None:
    """50,000 draws: E‖ĝ‖² is (d + 2)‖∇‖² for Gaussian z, d‖∇‖² for signs and on the sphere."""
    toy = linear({"w": (12,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    z = many(noise, law, 50_000, 12)
    squares = (z @ gradient) ** 2 * (z**2).sum(axis=1)
    unbiased(squares, (12 + extra) * float(gradient @ gradient), "second moment")


@pytest.mark.parametrize(("law", "extra"), [(Gaussian(), 1), (Rademacher(), -1)], ids=["gaussian", "rademacher"])
@pytest.mark.parametrize("queries", [2, 5])
def test_the_spread_of_a_mean_of_n_estimates_falls_as_one_over_n(
    noise: Noise, unbiased: Check, law: Sampler, extra: int, queries: int
) -> None:
    """With n directions: E‖ĝ − ∇‖² = (d ± 1)/n · ‖∇‖², E‖ĝ‖² = (d + n ± 1)/n · ‖∇‖²."""
    toy = linear({"w": (12,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    z = many(noise, law, 50_000, 12)
    estimates = ((z @ gradient)[:, None] * z).reshape(-1, queries, 12).mean(axis=1)
    [platform] = MeZO(queries=queries, sampler=law).estimate(toy.oracle(0, seed=SEED), None)
    np.testing.assert_allclose(toy.entries(platform.direction), estimates[0], rtol=1e-6, atol=1e-9)
    norm = float(gradient @ gradient)
    unbiased(((estimates - gradient) ** 2).sum(axis=1), (12 + extra) / queries * norm, "spread")
    unbiased((estimates**2).sum(axis=1), (12 + queries + extra) / queries * norm, "second moment")


@pytest.mark.parametrize(("dtype", "ulp"), [("float64", 2.0**-52), ("float32", 2.0**-23), ("float16", 2.0**-10)])
def test_probing_brings_theta_back_within_rounding_or_exactly(dtype: str, ulp: float) -> None:
    """Within 4 ulp of |w| + 2ε|z| entry by entry in place; to the bit with exact restore."""
    for restore in ("in-place", "exact"):
        toy = two_layers(dtype=dtype, restore=restore)  # type: ignore[arg-type]
        start, bits = toy.held, toy.bits
        _, z = slope_of(toy, MeZO(eps=EPS), step=0)
        if restore == "exact":
            assert toy.bits == bits
        else:
            assert (np.abs(toy.held - start) <= 4 * ulp * (np.abs(start) + 2 * EPS * np.abs(z))).all()


@pytest.mark.slow
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_the_weights_are_rebuilt_from_the_answers_bit_for_bit(restore: Restore) -> None:
    """200 steps with decay, warm-up and schedule; one changed answer shows."""
    estimator = MeZO(eps=EPS, rule=Cosine(lr=5e-3, warmup=10, decay=0.1))
    run = two_layers(dtype="float32", restore=restore)
    answers = train(run, estimator, steps=200)
    again = two_layers(dtype="float32", restore=restore)
    train(again, estimator, steps=200, answers=answers)
    assert again.bits == run.bits
    answers[77][1] += 1e-3
    changed = two_layers(dtype="float32", restore=restore)
    train(changed, estimator, steps=200, answers=answers)
    assert changed.bits != run.bits


@pytest.mark.parametrize("law", [Gaussian(), Rademacher(), Sphere(), LowRank()], ids=repr)
def test_z_does_not_depend_on_how_blocks_are_cut(law: Sampler) -> None:
    """Tiles of 4, of 16 and of all entries, to the bit."""
    drawn = []
    for grid in (4, 16, 1000):
        toy = linear()
        toy.space.blocks = tuple(replace(block, grid=grid) for block in toy.space.blocks)  # type: ignore[call-arg]
        drawn.append(toy.entries(toy.space.draw(law, Key(SEED, 0, 0))))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("law", [Gaussian(), LowRank(interval=50)], ids=repr)
def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends(law: Sampler) -> None:
    """To the bit: both settle at step 30, as for a checkpoint, in the middle of an interval of V."""
    estimator = MeZO(eps=EPS, sampler=law, rule=Plain(lr=LR, decay=DECAY))

    def steps(toy: Toy, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 60, SEED)
            for estimate in estimator.estimate(oracle, None):
                estimator.rule.apply(estimate, oracle, None)
        toy.space.settle()

    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    steps(unbroken, 0, 30)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    resumed.space.reset()
    steps(unbroken, 30, 60)
    steps(resumed, 30, 60)
    assert resumed.bits == unbroken.bits


def test_the_slope_scales_with_the_loss_and_ignores_a_constant() -> None:
    toy, other = two_layers(), two_layers()
    loss = other.loss
    other.loss = lambda theta: 3 * loss(theta) + 7
    for step in range(5):
        g, scaled = slope_of(toy, MeZO(eps=EPS), step)[0], slope_of(other, MeZO(eps=EPS), step)[0]
        assert scaled == pytest.approx(3 * g, rel=1e-9, abs=1e-11)


def test_two_halves_of_a_batch_give_the_slope_of_the_whole() -> None:
    """8 examples at once, or twice 4 and the mean of the losses."""
    whole, halves = two_layers(rows=slice(0, 8)), two_layers()
    first, second = two_layers(rows=slice(0, 4)), two_layers(rows=slice(4, 8))
    halves.loss = lambda theta: (first.loss(theta) + second.loss(theta)) / 2
    for step in range(5):
        g = slope_of(whole, MeZO(eps=EPS), step)[0]
        assert slope_of(halves, MeZO(eps=EPS), step)[0] == pytest.approx(g, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("queries", [1, 4])
def test_a_step_runs_two_forward_passes_for_each_direction(queries: int) -> None:
    toy, passes = two_layers(), []
    loss = toy.loss
    toy.loss = lambda theta: passes.append(1) or loss(theta)  # type: ignore[func-returns-value]
    train(toy, MeZO(queries=queries), steps=6)
    assert len(passes) == 6 * 2 * queries


@dataclass(frozen=True)
class Given(Sampler):
    """z = (1, −1)."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = [1.0, -1.0]


def test_a_step_by_hand() -> None:
    """L = ½(θ₁² + 4θ₂²) at (1, 1) along (1, −1) has slope −3, so η = 0.1 leads to (1.3, 0.7)."""
    toy = Toy(np.array([1.0, 1.0]), {"w": (2,)}, lambda theta: float(theta[0] ** 2 + 4 * theta[1] ** 2) / 2)
    recorded = train(toy, MeZO(eps=0.5, sampler=Given(), rule=Plain(lr=0.1)), steps=1)
    assert recorded[0][0] - recorded[0][1] == pytest.approx(-3.0, abs=1e-12)
    np.testing.assert_allclose(toy.theta, [1.3, 0.7], rtol=0, atol=1e-12)


def test_a_step_on_a_quadratic_is_minus_eta_slope_z() -> None:
    """Θ' = θ − η⟨∇Q, z⟩z."""
    toy = quadratic()
    assert toy.gradient is not None
    start = toy.theta
    gradient = toy.gradient(start)
    [z] = [toy.entries(z) for z in toy.oracle(0, seed=SEED).draw(Gaussian(), 1)]
    train(toy, MeZO(eps=1.0, rule=Plain(lr=0.01)), steps=1, seed=SEED)
    np.testing.assert_allclose(toy.theta, start - 0.01 * (gradient @ z) * z, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", [Plain(lr=0.5, decay=0.25), Cosine(lr=0.5, decay=0.25)], ids=repr)
def test_where_the_slope_is_zero_matrices_decay_and_vectors_keep_their_bits(rule: StepRule) -> None:
    """With exact restore; a slope of zero does not skip the decay."""
    toy = linear(restore="exact")
    toy.loss = lambda theta: 1.0
    starts = [block.array.copy() for block in toy.space.blocks]
    train(toy, MeZO(rule=rule), steps=1)
    for block, start in zip(toy.space.blocks, starts, strict=True):
        factor = 1 - 0.5 * 0.25 if len(block.shape) == 2 else 1.0
        np.testing.assert_array_equal(block.array, factor * start)


def test_an_objective_in_steps_has_slope_zero_between_them_and_moves_nothing() -> None:
    """L = −1[θ₁ > 0], far from the boundary, and then across it."""
    toy = linear(restore="exact")
    toy.loss = lambda theta: -float(theta[0] > 0)
    toy.space.blocks[0].array[0, 0] = 5.0
    toy.space.reset()
    bits = toy.bits
    recorded = train(toy, MeZO(eps=EPS, rule=Plain(lr=1.0)), steps=10)
    assert recorded == [[-1.0, -1.0]] * 10
    assert toy.bits == bits
    toy.space.blocks[0].array[0, 0] = 1e-6
    toy.space.reset()
    recorded = train(toy, MeZO(eps=EPS, rule=Plain(lr=1e-3)), steps=1)
    assert sorted(recorded[0]) == [-1.0, 0.0]
    assert toy.theta[0] > 1e-6, "the step goes to where the objective is lower"


Side = Literal["two", "one"]
BATCHES = [two_layers(rows=slice(8 * i, 8 * i + 8)).loss for i in range(5)]
"""The losses of five batches of the same problem; number 0 is that of the step."""


def several_directions(
    toy: Toy, steps: int, side: Side, count: Callable[[int], int], losses: Sequence[Callable[..., float]]
) -> list[float]:
    """Algorithm 2 on the toy's own arrays, with count(t) directions at step t and losses[j] for direction j."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []

    def perturb(step: int, query: int, amount: float) -> None:
        for name, array in arrays.items():
            array += amount * noise.normal(array.shape, Key(SEED, step, query), name).astype(np.float64)

    def loss(query: int) -> float:
        return losses[query](np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        g = []
        for query in range(count(step)):
            perturb(step, query, +EPS)
            up = loss(query)
            perturb(step, query, -EPS if side == "one" else -2 * EPS)
            other = loss(query)
            if side == "two":
                perturb(step, query, +EPS)
            g.append((up - other) / (EPS if side == "one" else 2 * EPS))
            recorded += [up, other]
        for query, slope in enumerate(g):
            perturb(step, query, -LR * slope / len(g))
    return recorded


class Elsewhere(ToyLosses):
    """A toy whose other batches have losses of their own."""

    def __init__(self, toy: Toy, index: int = 0) -> None:
        super().__init__(toy)
        self.index = index

    def forward(self) -> float:
        return BATCHES[self.index](self.toy.held)

    def on_batch(self, index: int) -> LossBackend:
        return Elsewhere(self.toy, index)


def run_on_batches(toy: Toy, estimator: MeZO, steps: int) -> list[float]:
    """The engine's step, each batch with its own loss."""
    recorded = []
    for step in range(steps):
        oracle = Oracle(toy.space, Key(SEED, step, 0), step / steps, Elsewhere(toy))
        for estimate in estimator.estimate(oracle, None):
            estimator.rule.apply(estimate, oracle, None)
        recorded += oracle.answers
    toy.space.settle()
    return recorded


@pytest.mark.parametrize("side", ["two", "one"])
def test_directions_with_a_batch_each_take_the_steps_of_algorithm_2(side: Side) -> None:
    plain, toy = two_layers(), two_layers()
    recorded = several_directions(plain, 40, side, lambda step: 3, BATCHES)
    answers = run_on_batches(toy, MeZO(EPS, queries=3, side=side, batches="fresh", rule=Plain(lr=LR)), 40)
    pairs = np.reshape(answers, (-1, 2))
    in_order = pairs if side == "two" else pairs[:, ::-1]  # the platform asks for L(θ) first
    np.testing.assert_allclose(in_order.reshape(-1), recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_the_first_direction_has_the_batch_of_the_step_so_that_one_direction_is_algorithm_1() -> None:
    fresh, shared = two_layers(), two_layers()
    answers = run_on_batches(fresh, MeZO(EPS, batches="fresh", rule=Plain(lr=LR)), 20)
    assert run_on_batches(shared, MeZO(EPS, rule=Plain(lr=LR)), 20) == answers
    assert fresh.bits == shared.bits


@pytest.mark.parametrize("side", ["two", "one"])
def test_a_growing_number_of_directions_takes_the_steps_of_algorithm_2(side: Side) -> None:
    """1, 2, 3 and 4 directions for a quarter of 40 steps each, on one batch."""
    plain, toy = two_layers(), two_layers()
    several_directions(plain, 40, side, lambda step: 1 + step // 10, [plain.loss] * 4)
    answers = train(toy, MeZO(EPS, 4, "linear", side, rule=Plain(lr=LR)), steps=40, seed=SEED)
    per_step = [(1 + step // 10) * 2 if side == "two" else 2 + step // 10 for step in range(40)]
    assert [len(step) for step in answers] == per_step
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_forward_differences_take_the_steps_of_the_published_loop(queries: int, restore: Restore) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    several_directions(plain, 60, "one", lambda step: queries, [plain.loss] * queries)
    train(toy, MeZO(EPS, queries, side="one", rule=Plain(lr=LR)), steps=60, seed=SEED)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-3, 1.0, 10.0])
def test_a_forward_difference_on_a_quadratic_has_half_eps_times_the_curvature_on_top(eps: float) -> None:
    """g = ⟨∇Q, z⟩ + (ε/2) zᵀHz."""
    toy = quadratic()
    assert toy.gradient is not None
    theta = toy.theta
    gradient = toy.gradient(theta)
    for step in range(10):
        oracle = toy.oracle(step, seed=SEED)
        [estimate] = MeZO(eps=eps, side="one").estimate(oracle, None)
        [z] = [toy.entries(z) for z in toy.oracle(step, seed=SEED).draw(Gaussian(), 1)]
        toy.space.settle()
        base, up = estimate.losses
        assert base == pytest.approx(toy.loss(theta), rel=1e-12)
        bend = z @ (toy.gradient(theta + z) - gradient)
        expected = gradient @ z + eps / 2 * bend
        scale = np.linalg.norm(gradient) * np.linalg.norm(z) + eps * abs(bend)
        assert abs((up - base) / eps - expected) <= 1e-9 * scale
        np.testing.assert_allclose(toy.entries(estimate.direction), expected * z, rtol=0, atol=1e-6 * scale)


def test_the_mean_of_forward_differences_on_a_quadratic_is_the_gradient(noise: Noise, unbiased: Check) -> None:
    """50,000 draws at an ε where the curvature shows: it adds spread and no bias."""
    toy, eps = quadratic({"w": (6,)}), 0.7
    assert toy.gradient is not None
    theta = toy.theta
    z = many(noise, Gaussian(), 50_000, 6)
    g = (np.array([toy.loss(theta + eps * row) for row in z]) - toy.loss(theta)) / eps
    [platform] = MeZO(eps=eps, side="one").estimate(toy.oracle(0, seed=SEED), None)
    np.testing.assert_allclose(toy.entries(platform.direction), g[0] * z[0], rtol=1e-9)
    unbiased(g[:, None] * z, toy.gradient(theta), "mean of forward differences")
    assert MeZO(side="one").bias == ""


def test_all_points_of_a_batch_are_asked_in_one_call() -> None:
    for side, points in (("two", 6), ("one", 4)):
        toy, calls = two_layers(), []
        toy.strategy = "batched"
        losses_at = toy.losses_at

        def recorded(directions: Sequence[Direction], losses_at: Any = losses_at, calls: Any = calls) -> list[float]:
            calls.append(len(directions))
            found: list[float] = losses_at(directions)
            return found

        toy.losses_at = recorded  # type: ignore[method-assign]
        train(toy, MeZO(queries=3, side=side), steps=2)  # type: ignore[arg-type]
        assert calls == [points, points]


def test_several_directions_need_no_schedule_to_be_drawn() -> None:
    """In the authors' code n counts only where its schedule is named too."""
    recorded = train(two_layers(), MeZO(queries=5), steps=2)
    assert [len(step) for step in recorded] == [10, 10]


def test_a_growing_number_of_directions_wants_to_know_how_long_the_run_is() -> None:
    given = {"estimator": MeZO(queries=4, schedule="linear"), "device": "reference"}
    with pytest.raises(ZoplatError, match=r"'mezo' as it is set must know how long.*--steps or --max-passes"):
        resolve({**given, "max_seconds": 5})
    resolve({**given, "max_seconds": 5, "steps": 100})


SETTINGS = list(product(["constant", "linear"], ["two", "one"], ["shared", "fresh"]))


@pytest.mark.parametrize(("schedule", "side", "batches"), SETTINGS)
def test_a_step_costs_two_passes_a_direction_or_one_more_than_directions(
    schedule: Any, side: Side, batches: Any
) -> None:
    """As many over the weights; the very first move is saved where it is to θ."""
    toy, steps, passes = two_layers(), 24, 0
    estimator = MeZO(queries=4, schedule=schedule, side=side, batches=batches)
    for step in range(steps):
        oracle = toy.oracle(step, steps)
        for estimate in estimator.estimate(oracle, None):
            estimator.rule.apply(estimate, oracle, None)
        passes += oracle.passes
    n = 4 if schedule == "constant" else 2.5
    expected = (n + 1 if (side, batches) == ("one", "shared") else 2 * n) * steps
    assert passes == expected
    assert 0 <= expected - toy.space.passes_over_weights <= 1


@pytest.mark.parametrize(("schedule", "side", "batches"), SETTINGS)
def test_every_setting_replays_bit_for_bit_and_learns(schedule: Any, side: Side, batches: Any) -> None:
    estimator = MeZO(EPS, 3, schedule, side, batches, rule=Plain(lr=5e-3))
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator, steps=60)
    train(again, estimator, steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


def test_zo_sgd_is_mezo_without_decay_at_the_settings_of_the_benchmark() -> None:
    assert zo_sgd.zoplat_estimators()["zo-sgd"] == MeZO(eps=1e-4, rule=Constant(lr=1e-6, decay=0.0))
