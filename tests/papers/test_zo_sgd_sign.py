"""ZO-SGD-Sign against a plain transcription of the step of arXiv:2402.11592, and its properties."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import ZERO, Direction, Estimate, ZoplatError, held
from zoplat.registry import catalogue
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_plugins import zo_sgd_sign
from zoplat_plugins.constant import Constant
from zoplat_plugins.cosine import Cosine
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.sphere import Sphere
from zoplat_plugins.zo_sgd_sign import Sign

from .plain import Looks, mean_estimate

SEED, EPS, LR, DECAY = 5, 1e-2, 3e-3, 0.05
Form = Literal["entries", "scalar"]


def published_loop(toy: Toy, steps: int, form: Form, queries: int = 1, decay: float = 0.0) -> list[float]:
    """The loop on the toy's own arrays, the estimate in arrays of its own; returns the losses."""
    look = Looks(toy)
    for step in range(steps):
        grad = mean_estimate(look, SEED, step, queries, EPS, np.sign if form == "scalar" else float)
        for name, array in look.arrays.items():
            if array.ndim == 2:
                array *= 1 - LR * decay
            array -= LR * (grad[name] if form == "scalar" else np.sign(grad[name]))
    return look.recorded


@pytest.mark.parametrize(("queries", "decay"), [(1, 0.0), (1, DECAY), (3, DECAY)])
@pytest.mark.parametrize("form", ["entries", "scalar"])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_the_steps_are_those_of_the_published_loop(restore: Restore, form: Form, queries: int, decay: float) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 40, form, queries, decay)
    estimator = MeZO(EPS, queries, rule=Sign(form=form, schedule=Plain(lr=LR, decay=decay)))
    answers = train(toy, estimator, steps=40, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def moved(rule: Sign, direction: Direction, toy: Toy) -> np.ndarray:
    """By how much θ changes when an estimate is applied."""
    start = toy.theta
    rule.apply(Estimate(direction), toy.oracle(0), None)
    return toy.theta - start


def test_every_entry_moves_by_eta_or_not_at_all_whatever_the_scale_of_the_loss() -> None:
    rule, moves = Sign(schedule=Plain(lr=0.25)), []
    for scale in (1.0, 1e-6, 1e6):
        toy = quadratic()
        [z] = toy.oracle(0).draw(Gaussian(), 1)
        half = z.on(toy.space.part(lambda block: block.name.startswith("s")))
        moves.append(moved(rule, scale * half, toy))
        np.testing.assert_allclose(moves[-1], -0.25 * np.sign(toy.entries(half)), rtol=0, atol=1e-15)
    assert set(np.round(np.unique(moves[0]), 12)) == {-0.25, 0.0, 0.25}
    np.testing.assert_array_equal(moves[0], moves[1])
    np.testing.assert_array_equal(moves[0], moves[2])
    assert (moved(rule, ZERO, quadratic()) == 0).all()


def test_the_sign_of_the_slope_and_of_each_entry_differ_for_gaussian_and_agree_for_rademacher_z() -> None:
    for law, agrees in ((Rademacher(), True), (Gaussian(), False)):
        forms = []
        for form in ("entries", "scalar"):
            toy = two_layers()
            train(toy, MeZO(EPS, sampler=law, rule=Sign(form=form, schedule=Plain(lr=LR))), steps=30)  # type: ignore[arg-type]
            forms.append(toy.theta)
        assert np.allclose(*forms, rtol=0, atol=1e-12) == agrees


@pytest.mark.parametrize("name", ["conmezo", "mezo-layerwise", "sparse-mezo", "kerzoo", "bszo"])
def test_the_scalar_form_steps_along_what_was_probed_with_all_its_factors(name: str) -> None:
    toy, method = two_layers(), catalogue().entry("estimator", name).value
    method = replace(
        method, rule=Sign(form="scalar", schedule=Plain(lr=LR)), **({"queries": 1} if name == "bszo" else {})
    )
    state = method.init(toy.space)
    for step in range(3):
        oracle, start = toy.oracle(step), toy.theta
        for estimate in method.estimate(oracle, state):
            [slope] = estimate.slopes
            expected = -LR * toy.entries(estimate.direction) / abs(slope)
            method.rule.apply(estimate, oracle, None)
            np.testing.assert_allclose(toy.theta - start, expected, rtol=0, atol=1e-9)


def test_the_scalar_form_keeps_the_length_of_each_of_several_directions() -> None:
    toy, rule = linear(), Sign(form="scalar", schedule=Plain(lr=LR))
    start, (one, other) = toy.theta, toy.oracle(0).draw(Sphere(), 2)
    rule.apply(Estimate(Direction.mean([3.0, -2.0], [one, other]), slopes=[3.0, -2.0]), toy.oracle(0), None)
    np.testing.assert_allclose(toy.theta - start, -LR / 2 * toy.entries(one - other), rtol=0, atol=1e-12)


def test_the_scalar_form_refuses_what_is_not_slopes_times_directions() -> None:
    toy, rule = two_layers(), Sign(form="scalar")
    for name in ("sgd", "zo-muon", "grzo", "es"):
        method = replace(catalogue().entry("estimator", name).value, rule=rule)
        with pytest.raises(ZoplatError, match=r"'sign' with form=scalar divides .* such as mezo"):
            train(two_layers(), method, steps=1)
    one, other = toy.oracle(0).draw(Gaussian(), 2)
    with pytest.raises(ZoplatError, match=r"2 with 3 terms\. Use queries=1"):
        rule.apply(Estimate(one + other + held(toy.space.buffer("some/m")), slopes=[1.0, 1.0]), toy.oracle(0), None)


def test_the_entrywise_form_says_that_all_entries_move_alike() -> None:
    assert Sign().moves_alike
    assert not Sign(form="scalar").moves_alike
    assert not Constant().moves_alike


def test_what_is_registered_is_the_papers_form_with_no_adam_in_the_way() -> None:
    """The published sweep files name no optimizer, so that those runs went through AdamW."""
    registered = zo_sgd_sign.zoplat_estimators()["zo-sgd-sign"]
    assert registered == MeZO(rule=zo_sgd_sign.zoplat_step_rules()["sign"])
    assert registered.rule == Sign(Constant(lr=1e-6), form="entries")


@pytest.mark.parametrize(("form", "passes"), [("entries", 3), ("scalar", 2)])
def test_a_step_costs_what_is_claimed_and_keeps_nothing(form: Form, passes: int) -> None:
    toy = two_layers()
    estimator = MeZO(EPS, rule=Sign(form=form))
    recorded = train(toy, estimator, steps=20)
    assert sum(map(len, recorded)) == 2 * 20
    late = form == "scalar"  # the last update is performed after the last step
    assert toy.space.passes_over_weights - late == passes * 20
    assert not toy.space.buffers


@pytest.mark.parametrize("form", ["entries", "scalar"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sign_learns_and_replays_bit_for_bit(form: Form, dtype: str) -> None:
    """With a schedule and decay."""
    estimator = MeZO(EPS, rule=Sign(Cosine(lr=1e-2, warmup=5, decay=0.01), form))
    run, again = two_layers(dtype=dtype), two_layers(dtype=dtype)
    before = run.loss(run.theta)
    answers = train(run, estimator, steps=120)
    train(again, estimator, steps=120, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


def test_the_step_size_follows_the_schedule() -> None:
    rule: Any = Sign(schedule=Cosine(lr=0.5))
    toy = quadratic()
    oracle = toy.oracle(step=500, steps=1000)
    assert rule.has_horizon
    assert rule.rate(oracle) == pytest.approx(0.25)
    start = toy.theta
    [z] = oracle.draw(Gaussian(), 1)
    rule.apply(Estimate(z), oracle, None)
    np.testing.assert_allclose(np.abs(toy.theta - start), 0.25, rtol=1e-12)
