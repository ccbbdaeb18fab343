"""ZO-SGD-MMT against a plain transcription of the step of arXiv:2402.11592, and its properties."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import ZERO, Direction, Estimate, Key, Noise, Sampler, Tile, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_plugins import zo_sgd_mmt
from zoplat_plugins.constant import Constant
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.zo_sgd_mmt import Momentum

from .plain import Looks, mean_estimate

SEED, EPS, LR, DECAY, BETA = 5, 1e-2, 3e-4, 0.05, 0.9
Form = Literal["heavy-ball", "ema"]


def published_loop(toy: Toy, steps: int, form: Form, queries: int = 1, decay: float = 0.0) -> list[float]:
    """The loop on the toy's own arrays, m in arrays of its own; returns the losses."""
    look = Looks(toy)
    m = {name: np.zeros(array.shape) for name, array in look.arrays.items()}
    for step in range(steps):
        grad = mean_estimate(look, SEED, step, queries, EPS)
        for name, array in look.arrays.items():
            m[name] = BETA * m[name] + (1 - BETA if form == "ema" else 1.0) * grad[name]
            if array.ndim == 2:
                array *= 1 - LR * decay
            array -= LR * m[name]
    return look.recorded


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (1, DECAY), (3, DECAY)])
@pytest.mark.parametrize("form", ["heavy-ball", "ema"])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_the_steps_are_those_of_the_published_loop(restore: Restore, form: Form, queries: int, decay: float) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 40, form, queries, decay)
    estimator = MeZO(EPS, queries, rule=Momentum(Plain(lr=LR, decay=decay), BETA, form))
    answers = train(toy, estimator, steps=40, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("queries", "steps"), [(1, 40), (2, 20)])
@pytest.mark.parametrize("form", ["heavy-ball", "ema"])
def test_momentum_by_names_is_momentum_in_a_buffer(form: Form, queries: int, steps: int) -> None:
    """With decay: 40 names are kept, which are all there are."""
    weights = []
    for keep in (0, 40):
        toy = two_layers()
        rule = Momentum(Plain(lr=LR, decay=DECAY), BETA, form, keep)
        train(toy, MeZO(EPS, queries, rule=rule), steps=steps, seed=SEED)
        assert len(toy.space.buffers) == (keep == 0)
        weights.append(toy.theta)
    np.testing.assert_allclose(weights[0], weights[1], rtol=0, atol=1e-9)


def test_names_that_are_no_longer_kept_are_the_oldest() -> None:
    """After 9 steps with 3 names: m = ĝ₈ + βĝ₇ + β²ĝ₆."""
    toy = linear()
    rule = Momentum(Plain(lr=LR), BETA, keep=3)
    estimator, state, estimates = MeZO(EPS), rule.init(toy.space), []
    for step in range(9):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in estimator.estimate(oracle, None):
            estimates.append(toy.entries(estimate.direction))
            rule.apply(estimate, oracle, state)
    assert isinstance(state.m, Direction)
    assert len(state.m) == 3
    expected = sum(BETA**age * g for age, g in enumerate(reversed(estimates[-3:])))
    np.testing.assert_allclose(toy.entries(state.m), expected, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class Fixed(Sampler):
    """The same vector at every step."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, Key(0, 0, 0), tile)


def test_with_one_z_on_a_linear_loss_momentum_is_a_geometric_sum() -> None:
    """m_t = ĝ(1 − βᵗ)/(1 − β), times 1 − β for a running mean; the step settles at η/(1 − β)."""
    for form, scale in (("heavy-ball", 1 / (1 - BETA)), ("ema", 1.0)):
        toy = linear()
        rule = Momentum(Plain(lr=LR), BETA, form)  # type: ignore[arg-type]
        estimator, state = MeZO(EPS, sampler=Fixed()), rule.init(toy.space)
        for t in range(1, 31):
            oracle = toy.oracle(t, seed=SEED)
            [estimate] = estimator.estimate(oracle, None)
            g = toy.entries(estimate.direction)
            rule.apply(estimate, oracle, state)
            m = np.concatenate([state.m.arrays[block.name].reshape(-1) for block in toy.space.blocks])  # type: ignore[union-attr]
            np.testing.assert_allclose(m, g * scale * (1 - BETA**t), rtol=1e-7)


def test_without_momentum_both_forms_are_zo_sgd() -> None:
    plain = two_layers()
    train(plain, MeZO(EPS, rule=Plain(lr=LR)), steps=20)
    for form, keep in (("heavy-ball", 0), ("ema", 0), ("heavy-ball", 1)):
        toy = two_layers()
        train(toy, MeZO(EPS, rule=Momentum(Plain(lr=LR), 0.0, form, keep)), steps=20)  # type: ignore[arg-type]
        np.testing.assert_allclose(toy.theta, plain.theta, rtol=0, atol=1e-12)


def test_what_is_registered_has_heavy_ball_momentum_of_nine_tenths() -> None:
    registered = zo_sgd_mmt.zoplat_estimators()["zo-sgd-mmt"]
    assert registered == MeZO(eps=1e-4, rule=zo_sgd_mmt.zoplat_step_rules()["momentum"])
    assert registered.rule == Momentum(Constant(lr=1e-7), 0.9, "heavy-ball", keep=0)


@pytest.mark.parametrize(("keep", "passes", "bytes_each"), [(0, 3, 4), (5, 2, 0)])
def test_a_step_costs_what_is_claimed(keep: int, passes: int, bytes_each: int) -> None:
    """The buffer is float32 beside weights of 16 bits too."""
    toy = two_layers(dtype="float16")
    estimator = MeZO(EPS, rule=Momentum(keep=keep))
    train(toy, estimator, steps=20)
    assert toy.space.passes_over_weights - (keep > 0) == passes * 20  # the last update is performed after the last step
    assert sum(buffer.bytes for buffer in toy.space.buffers) == bytes_each * toy.space.size


@pytest.mark.parametrize(("form", "keep"), [("heavy-ball", 0), ("ema", 0), ("heavy-ball", 20)])
def test_momentum_learns_and_replays_bit_for_bit(form: Form, keep: int) -> None:
    """With a schedule and decay."""
    lr = 5e-3 if form == "ema" else 1e-3
    estimator = MeZO(EPS, rule=Momentum(Cosine(lr=lr, warmup=5, decay=0.01), BETA, form, keep))
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator, steps=120)
    train(again, estimator, steps=120, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


@pytest.mark.parametrize("keep", [0, 8])
def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends(keep: int) -> None:
    """The momentum is in the checkpoint, as numbers or as names."""
    rule = Momentum(Plain(lr=LR), BETA, keep=keep)
    estimator = MeZO(EPS, rule=rule)

    def steps(toy: Toy, state: Any, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 30, SEED)
            for estimate in estimator.estimate(oracle, None):
                rule.apply(estimate, oracle, state)
        toy.space.settle()

    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    state, fresh = rule.init(unbroken.space), rule.init(resumed.space)
    steps(unbroken, state, 0, 15)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    for buffer, kept in zip(resumed.space.buffers, unbroken.space.buffers, strict=True):
        for name, array in buffer.arrays.items():
            array[:] = kept.arrays[name]
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    steps(unbroken, state, 15, 30)
    steps(resumed, fresh, 15, 30)
    assert resumed.bits == unbroken.bits


def test_an_estimate_that_is_not_finite_leaves_names_as_they_were() -> None:
    """The momentum of a step that is skipped is not changed."""
    toy = linear()
    rule = Momentum(keep=4)
    state = rule.init(toy.space)
    [z] = toy.oracle(0).draw(Fixed(), 1)
    with pytest.raises(ZoplatError, match="not finite"):
        rule.apply(Estimate(1e300 * z), toy.oracle(0), state)
    assert state.m == ZERO


@pytest.mark.parametrize(("field", "value"), [("beta", 1.0), ("beta", -0.1), ("keep", -1)])
def test_a_setting_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ZoplatError, match=field):
        Momentum(**{field: value})
