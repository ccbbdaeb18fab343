"""Sparse ZO against plain transcriptions of arXiv:2402.11592 with masks written out, and its properties."""

import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import Direction, Key, Noise, Oracle, Sampler, ZoplatError
from zoplat.core.errors import NonFinite
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.testing import Plain, SamplerContract, Toy, linear, quadratic, train, two_layers
from zoplat.testing.toys import ToyLosses
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels import native
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import sparse_zo
from zoplat_plugins.adam import Adam
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.sparse_zo import Masked, SparseZO
from zoplat_plugins.sphere import Sphere

SEED, EPS, LR, DECAY, STEPS = 5, 1e-2, 2e-3, 0.05, 30
Scores = Literal["random", "magnitude", "wanda"]
Keep = Literal["largest", "smallest"]
WAYS: list[tuple[Scores, Keep]] = [
    ("random", "largest"),
    ("magnitude", "largest"),
    ("magnitude", "smallest"),
    ("wanda", "largest"),
    ("wanda", "smallest"),
]


def chosen(scores: Scores, keep: Keep, density: float, name: str, theta: np.ndarray, epoch: int) -> np.ndarray:
    """The mask of one array by sorting; input j of a matrix of the toys has norm 1 + j."""
    if scores == "random":
        return ReferenceNoise().uniform(theta.shape, Key(SEED, epoch, -1), name, "mask") < density
    size = np.abs(theta)
    if scores == "wanda" and theta.ndim == 2:
        size = size * np.arange(1.0, 1 + theta.shape[1])
    order = np.argsort(size, axis=None)
    count = int(np.ceil(density * theta.size - 1e-6))
    mask = np.zeros(theta.size, bool)
    mask[order[:count] if keep == "smallest" else order[theta.size - count :]] = True
    return mask.reshape(theta.shape)


def published_loop(
    toy: Toy,
    steps: int,
    scores: Scores,
    keep: Keep = "largest",
    density: float = 0.4,
    interval: int = 7,
    queries: int = 1,
    decay: float = 0.0,
) -> list[float]:
    """The loop on the toy's own arrays, the mask a table that is made anew every `interval` steps."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    mask: dict[str, np.ndarray] = {}
    recorded = []

    def perturb(step: int, query: int, amount: float) -> None:
        for name, array in arrays.items():
            z = noise.normal(array.shape, Key(SEED, step, query), name).astype(np.float64)
            array += amount * z * mask[name]

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        if (step % interval == 0) if interval else step == 0:
            mask = {name: chosen(scores, keep, density, name, array, step) for name, array in arrays.items()}
            if scores == "wanda":
                recorded += [1.0 + j for array in arrays.values() if array.ndim == 2 for j in range(array.shape[1])]
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
                array *= 1 - LR * decay
        for query in range(queries):
            perturb(step, query, -LR * g[query] / queries)
    return recorded


def estimator(scores: Scores = "random", keep: Keep = "largest", **settings: Any) -> SparseZO:
    defaults = {"eps": EPS, "density": 0.4, "interval": 7, "rule": Plain(lr=LR)}
    return SparseZO(scores=scores, keep=keep, **{**defaults, **settings})


@pytest.mark.parametrize("restore", ["in-place", pytest.param("exact", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("queries", "interval", "decay"), [(1, 7, 0.0), (3, 7, DECAY), (1, 1, DECAY), (1, 0, DECAY)])
@pytest.mark.parametrize(("scores", "keep"), WAYS)
def test_sparse_zo_takes_the_steps_of_the_published_loop(
    scores: Scores, keep: Keep, queries: int, interval: int, decay: float, restore: Restore
) -> None:
    """In float64 to 1e-9: the same masks in probes and steps for any number of directions."""
    plain, toy = two_layers(), two_layers(restore=restore)
    settings: dict[str, Any] = {"interval": interval, "queries": queries}
    recorded = published_loop(plain, STEPS, scores, keep, decay=decay, **settings)
    method = estimator(scores, keep, rule=Plain(lr=LR, decay=decay), **settings)
    answers = train(toy, method, steps=STEPS, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def directions(toy: Toy, method: SparseZO, step: int, state: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """What a step that is not taken would apply, and what it probed."""
    oracle, probed = toy.oracle(step, seed=SEED), []
    ask = oracle.losses

    def losses(*points: Direction) -> list[float]:
        probed.extend(toy.entries(point) for point in points)
        return ask(*points)

    oracle.losses = losses  # type: ignore[method-assign]
    [estimate] = method.estimate(oracle, state)
    return toy.entries(estimate.direction), probed


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(("scores", "keep"), WAYS)
def test_what_is_probed_and_what_is_moved_are_the_same_weights(scores: Scores, keep: Keep, queries: int) -> None:
    """The support of every probe is that of the step, for any number of directions."""
    toy, method = quadratic(), estimator(scores, keep, queries=queries)
    state = method.init(toy.space)
    supports = []
    for step in (0, 3, 6, 7, 13, 14):
        moved, probed = directions(toy, method, step, state)
        assert len(probed) == 2 * queries
        for point in probed:
            np.testing.assert_array_equal(point != 0, moved != 0)
        supports.append(moved != 0)
    assert (supports[0] == supports[1]).all()
    assert (supports[0] == supports[2]).all()
    assert (supports[3] == supports[4]).all()
    assert ((supports[3] != supports[0]).any(), (supports[5] != supports[3]).any()) == ((scores == "random"),) * 2


def test_the_share_that_is_kept_is_the_share_that_was_asked_for(noise: Noise) -> None:
    """Within five binomial deviations of `density`; the published code would keep 1 − Φ(ratio)."""
    n = 200_000
    for density in (0.02, 0.1, 0.5, 0.9):
        kept = int((noise.uniform((n,), Key(SEED, 0, -1), "w", "mask") < density).sum())
        assert abs(kept - density * n) <= 5 * (n * density * (1 - density)) ** 0.5
    toy = linear({"w": (200, 20)})
    for density in (0.1, 0.5, 0.9, 1.0):
        z = toy.entries(toy.space.draw(Masked(density=density), Key(SEED, 3, 0)))
        assert abs((z != 0).sum() - density * 4000) <= 5 * (4000 * density * (1 - density)) ** 0.5


@pytest.mark.parametrize("keep", ["largest", "smallest"])
@pytest.mark.parametrize("scores", ["magnitude", "wanda"])
def test_masks_by_scores_keep_the_share_of_every_array_to_one_weight(scores: Scores, keep: Keep) -> None:
    """As many as the share of an array's weights, rounded up."""
    for dtype in ("float32", "float64"):
        toy = quadratic(dtype=dtype, restore="exact")
        for density in (0.1, 0.25, 0.5, 0.75, 1.0):
            method = estimator(scores, keep, density=density, interval=1)
            state = method.init(toy.space)
            assert state is not None
            list(method.estimate(toy.oracle(0, seed=SEED), state))
            for block in toy.space.blocks:
                kept = state.mask.arrays[block.name]
                assert set(np.unique(kept)) <= {0, 1}
                assert kept.sum() == np.ceil(density * block.size - 1e-6), (block.name, density)
                score = np.abs(block.array)
                if scores == "wanda" and score.ndim == 2:
                    score = score * np.arange(1, 1 + score.shape[1])
                inside, outside = score[kept == 1], score[kept == 0]
                if len(outside) and keep == "largest":
                    assert inside.min() > outside.max()
                elif len(outside):
                    assert inside.max() < outside.min()


def test_an_array_that_begins_at_zero_is_kept_whole() -> None:
    """LoRA's B: no weight of it scores more than another, and a run that kept none could never move."""
    for keep in ("largest", "smallest"):
        toy = quadratic()
        toy.space.blocks[2].array[:] = 0.0
        toy.space.reset()
        method = estimator("magnitude", keep, density=0.25)  # type: ignore[arg-type]
        state = method.init(toy.space)
        assert state is not None
        list(method.estimate(toy.oracle(0, seed=SEED), state))
        assert state.mask.arrays["tall.weight"].all()
        assert state.mask.arrays["square.weight"].sum() == 5


def test_masks_by_scores_come_from_theta_and_not_from_where_the_weights_stand() -> None:
    """A remembered update is performed with the old mask, probes are taken back, and then θ is scored."""
    toy, method = quadratic(), estimator("magnitude", interval=1, rule=Plain(lr=0.05))
    state = method.init(toy.space)
    assert state is not None
    for step in range(6):
        oracle = toy.oracle(step, seed=SEED)
        before = Toy(toy.theta, {b.name: b.shape for b in toy.space.blocks}, toy.loss)
        toy.space.at(0.3 * toy.space.draw(Gaussian(), Key(9, step, 0)))
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        for block in before.space.blocks:
            expected = chosen("magnitude", "largest", 0.4, block.name, block.array, step)
            np.testing.assert_array_equal(state.mask.arrays[block.name], expected)


def test_a_random_mask_is_mezo_with_a_masked_sampler_to_the_bit() -> None:
    one, other = two_layers(dtype="float32"), two_layers(dtype="float32")
    rule = Plain(lr=LR, decay=DECAY)
    train(one, estimator(queries=2, rule=rule), steps=20)
    train(other, MeZO(eps=EPS, queries=2, sampler=Masked(density=0.4, interval=7), rule=rule), steps=20)
    assert one.bits == other.bits
    whole, plain = two_layers(dtype="float32"), two_layers(dtype="float32")
    train(whole, estimator(density=1.0), steps=20)
    train(plain, MeZO(eps=EPS, rule=Plain(lr=LR)), steps=20)
    assert whole.bits == plain.bits


@pytest.mark.parametrize("law", [Gaussian(), LowRank(interval=7), Sphere()], ids=repr)
def test_a_masked_law_is_the_law_where_the_mask_is_one_and_zero_elsewhere(law: Sampler) -> None:
    toy = linear()
    for step, draw in ((0, 0), (6, 1), (7, 0)):
        key = Key(SEED, step, draw)
        whole = toy.entries(toy.space.draw(law, key))
        masked = toy.entries(toy.space.draw(Masked(law, 0.4, 7), key))
        mask = np.concatenate(
            [chosen("random", "largest", 0.4, b.name, b.array, step - step % 7).reshape(-1) for b in toy.space.blocks]
        )
        np.testing.assert_allclose(masked, whole * mask, rtol=1e-5, atol=1e-6)
        assert 0 < mask.sum() < len(mask)
    assert Masked(LowRank(rank=3), 0.25).variance((4, 4)) == 0.75


class TestMasked(SamplerContract):
    """The sampler keeps its contract, at the variance that it claims."""

    sampler = Masked(density=0.5, interval=7)
    variance = vector_variance = 0.5


def test_one_mask_for_the_whole_run() -> None:
    toy, method = quadratic(), estimator(interval=0)
    first, later = (directions(toy, method, step, None)[0] != 0 for step in (0, 5000))
    np.testing.assert_array_equal(first, later)
    for scores in ("magnitude", "wanda"):
        scored = estimator(scores, interval=0)  # type: ignore[arg-type]
        asked = train(two_layers(), scored, steps=5)
        assert [len(step) for step in asked] == [2 + 15 * (scores == "wanda"), 2, 2, 2, 2]


@pytest.mark.parametrize(("scores", "keep"), WAYS)
def test_it_learns_and_its_runs_replay(scores: Scores, keep: Keep) -> None:
    """Masks and norms included: both follow from the answers."""
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    method = estimator(scores, keep, density=0.5, rule=Plain(lr=LR, decay=DECAY))
    answers = train(run, method, steps=60)
    train(again, method, steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * two_layers().loss(two_layers().theta)


def test_a_run_taken_up_again_within_an_interval_ends_where_the_unbroken_one_ends() -> None:
    """The mask is in the state, and is not made anew from the weights at hand."""
    method = estimator("magnitude", interval=20)

    def steps(toy: Toy, state: Any, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 40, SEED)
            for estimate in method.estimate(oracle, state):
                method.rule.apply(estimate, oracle, None)
        toy.space.settle()

    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    state, fresh = method.init(unbroken.space), method.init(resumed.space)
    steps(unbroken, state, 0, 13)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    for buffer, kept in zip(resumed.space.buffers, unbroken.space.buffers, strict=True):
        for name, array in buffer.arrays.items():
            array[:] = kept.arrays[name]
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    steps(unbroken, state, 13, 40)
    steps(resumed, fresh, 13, 40)
    assert resumed.bits == unbroken.bits


@pytest.mark.skipif(native.kernels() is None, reason="no C compiler is at hand")
@pytest.mark.parametrize(("scores", "keep"), WAYS)
def test_the_host_space_makes_the_same_masks_and_moves(scores: Scores, keep: Keep) -> None:
    plain, fast = quadratic(dtype="float32"), quadratic(dtype="float32")
    fast.space = ParameterSpace(fast.space.blocks, FusedBackend(native.kernels(), np.empty), "in-place")  # type: ignore[arg-type]
    plain.space = ParameterSpace(plain.space.blocks, Backend(ReferenceNoise(), np.empty))
    for toy in (plain, fast):
        train(toy, estimator(scores, keep), steps=16)
    np.testing.assert_allclose(fast.held, plain.held, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", [Plain(lr=LR), Adam(schedule=Plain(lr=LR))], ids=["plain", "adam"])
@pytest.mark.parametrize(("scores", "keep"), WAYS)
def test_a_step_costs_what_the_box_says(scores: Scores, keep: Keep, rule: Any) -> None:
    toy, passes = two_layers(dtype="float32"), 0
    method = estimator(scores, keep, queries=2, interval=10, rule=rule)
    state, rule_state = method.init(toy.space), rule.init(toy.space)
    for step in range(100):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, state):
            rule.apply(estimate, oracle, rule_state)
        passes += oracle.passes
    by_scores, is_adam = scores != "random", isinstance(rule, Adam)
    renewal = 1 if is_adam else 2  # a pass to θ, unless the rule has just made it, and one for the mask
    assert passes / 100 == pytest.approx(4 + 0.1 * (scores == "wanda"))
    over_weights = 4 + is_adam + 0.1 * renewal * by_scores
    assert toy.space.passes_over_weights / 100 == pytest.approx(over_weights, abs=0.02)
    assert sum(b.bytes for b in toy.space.buffers) == (by_scores + 8 * is_adam) * toy.space.size


def test_norms_that_are_not_finite_skip_the_step() -> None:
    """A mask made of them would keep nothing, and a run that keeps nothing never moves."""

    class Overflowing(ToyLosses):
        def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
            return {**super().input_norms(space), "output.weight": [float("inf")] * 12}

    toy, method = two_layers(), estimator("wanda")
    state = method.init(toy.space)
    with pytest.raises(NonFinite, match="norm of an input at step 3"):
        next(method.estimate(Oracle(toy.space, Key(0, 3, 0), None, Overflowing(toy)), state))
    assert state == sparse_zo.State(state.mask, epoch=-1)  # type: ignore[union-attr]


def test_what_can_not_be_is_refused_and_what_is_registered_is_the_middle_of_the_sweep() -> None:
    for settings, words in (
        ({"eps": 0.0}, "eps must be positive"),
        ({"queries": 0}, r"queries must lie in \[1, "),
        ({"density": 0.0}, "density must be above 0 and at most 1, got 0.0"),
        ({"density": 1.1}, "density must be above 0"),
        ({"interval": -1}, "interval must be 0 or more"),
    ):
        with pytest.raises(ZoplatError, match=words):
            replace(SparseZO(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ZoplatError, match=r"density must be above 0 and at most 1, got 2"):
        Masked(density=2.0)
    assert sparse_zo.zoplat_estimators() == {"sparse-zo": SparseZO(rule=Constant(lr=1e-6), density=0.5, interval=500)}
    assert sparse_zo.zoplat_samplers() == {"masked": Masked(Gaussian(), 0.5, 500)}
    assert SparseZO().asks == {"losses"}
    assert SparseZO(scores="wanda").asks == {"losses", "input norms"}
