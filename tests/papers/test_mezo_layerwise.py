"""MeZO-layerwise against a plain transcription of Definitions 6 and 7 of arXiv:2305.17333, and its properties."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from zoplat import Key, Noise, ZoplatError
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.mezo_layerwise import Layerwise, State

SEED, EPS, LR, DECAY, INTERVAL, BETA = 5, 1e-2, 1e-3, 0.05, 7, 0.25
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]
GROUPS = [["hidden.weight", "hidden.bias"], ["output.weight"], ["output.bias"]]
"""Of the network below: a layer, and two blocks outside of all layers."""


def network(dtype: str = "float64", restore: Restore = "in-place") -> Toy:
    """Two layers, the first of which is known as one."""
    toy = two_layers(dtype, restore)
    toy.space.blocks = tuple(
        replace(block, layer=0 if block.name.startswith("hidden") else None) for block in toy.space.blocks
    )
    return toy


def published_loop(toy: Toy, steps: int, method: Layerwise, decay: float = 0.0) -> list[float]:
    """The definitions on the toy's own arrays, d in a table by block; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded: list[float] = []
    d: dict[str, float] = {}

    def normal(step: int, draw: int, names: list[str]) -> dict[str, np.ndarray]:
        return {name: noise.normal(arrays[name].shape, Key(SEED, step, draw), name).astype(float) for name in names}

    def move(z: dict[str, np.ndarray], amount: float) -> None:
        for name, numbers in z.items():
            arrays[name] += amount * numbers

    def look() -> float:
        recorded.append(toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()])))
        return recorded[-1]

    def slope(u: dict[str, np.ndarray]) -> float:
        move(u, +EPS)
        up = look()
        move(u, -2 * EPS)
        down = look()
        move(u, +EPS)
        return (up - down) / (2 * EPS)

    for step in range(steps):
        draws = 0
        if step == 0 or (method.interval and step % method.interval == 0):
            for names in GROUPS:
                if method.norm == "gradient":
                    new = abs(slope(normal(step, draws, names)))
                    draws += 1
                else:
                    new = np.sqrt(sum((arrays[name] ** 2).sum() for name in names))
                if method.by_size:
                    new = new / np.sqrt(sum(arrays[name].size for name in names))
                for name in names:
                    d[name] = new if step == 0 else method.beta * d[name] + (1 - method.beta) * new
        probed = GROUPS[step % 3] if method.single else list(arrays)
        z = normal(step, draws, probed)
        c = slope({name: numbers / d[name] for name, numbers in z.items()})
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        move({name: (d[name] if method.form == "variance" else 1.0) * numbers for name, numbers in z.items()}, -LR * c)
    return recorded


SETTINGS = [
    {"norm": norm, "form": form, "interval": interval, "beta": beta, "by_size": by_size, "single": single}
    for norm, form, (interval, beta), by_size, single in product(
        ("parameters", "gradient"),
        ("variance", "expectation"),
        ((0, 0.0), (INTERVAL, BETA)),
        (False, True),
        (False, True),
    )
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_the_steps_are_those_of_the_definitions(settings: Any) -> None:
    """25 steps in float64, d measured once or four times. Norms come rounded to float32."""
    plain, toy = network(), network()
    method = Layerwise(EPS, **settings, rule=Plain(lr=LR, decay=DECAY))
    recorded = published_loop(plain, 25, method, DECAY)
    answers = train(toy, method, steps=25, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=1e-6, atol=1e-7)


def test_a_layer_is_a_group_and_so_is_each_block_outside_of_all_layers() -> None:
    assert [sorted(part.names) for part in network().space.layers()] == [sorted(names) for names in GROUPS]


@pytest.mark.parametrize("form", ["variance", "expectation"])
def test_the_mean_is_the_gradient_or_the_gradient_over_d(noise: Noise, unbiased: Check, form: Any) -> None:
    """50,000 draws on a quadratic at an ε where its curvature shows, d far from 1."""
    toy, eps, norms = quadratic({"a": (4,), "b": (2,)}), 0.7, [0.2, 5.0]
    assert toy.gradient is not None
    theta = toy.theta
    d = np.repeat(norms, [4, 2])
    z = np.stack(
        [
            np.concatenate([noise.normal((n,), Key(SEED, step, 0), name) for name, n in (("a", 4), ("b", 2))])
            for step in range(50_000)
        ]
    ).astype(np.float64)
    hessian = np.array([toy.gradient(axis) for axis in np.eye(6)])
    points = [theta + sign * eps * z / d for sign in (1, -1)]
    up, down = (((point @ hessian) * point).sum(axis=1) / 2 for point in points)
    c = (up - down) / (2 * eps)
    estimates = c[:, None] * (d * z if form == "variance" else z)
    method = Layerwise(eps, form=form)
    [platform] = method.estimate(toy.oracle(0, seed=SEED), State(norms))
    np.testing.assert_allclose(toy.entries(platform.direction), estimates[0], rtol=1e-6)
    expected = toy.gradient(theta) / (1 if form == "variance" else d)
    unbiased(estimates, expected, f"{form}-modified mean")
    assert bool(method.bias) == (form == "expectation")


def test_a_slope_along_one_group_alone_measures_the_norm_of_its_gradient(noise: Noise, unbiased: Check) -> None:
    """Proposition 1: E[slope²] = ‖∇_ℓ‖², from z that is zero outside of the group."""
    toy = linear({"a": (8,), "b": (5,)})
    assert toy.gradient is not None
    gradient = toy.gradient(toy.theta)
    z = np.stack([noise.normal((8,), Key(SEED, step, 0), "a") for step in range(50_000)]).astype(np.float64)
    unbiased((z @ gradient[:8]) ** 2, float(gradient[:8] @ gradient[:8]), "squared slope")
    state = State()
    list(Layerwise(EPS, norm="gradient").estimate(toy.oracle(0, seed=SEED), state))
    assert state.norms[0] == pytest.approx(abs(z[0] @ gradient[:8]), rel=1e-6)


def test_with_every_norm_at_one_both_forms_are_mezo() -> None:
    zo, same = MeZO(EPS, rule=Plain(lr=LR)), network()
    train(same, zo, steps=10, seed=SEED)
    for form in ("variance", "expectation"):
        toy, state = network(), State([1.0, 1.0, 1.0])
        method = Layerwise(EPS, form=form, rule=Plain(lr=LR))  # type: ignore[arg-type]
        for step in range(10):
            oracle = toy.oracle(step, seed=SEED)
            for estimate in method.estimate(oracle, state):
                method.rule.apply(estimate, oracle, None)
        np.testing.assert_allclose(toy.theta, same.theta, rtol=0, atol=1e-12)


def test_a_norm_of_zero_counts_as_one() -> None:
    toy = network()
    toy.space.blocks[3].array[:] = 0.0
    toy.space.reset()
    state = State()
    [estimate] = Layerwise(EPS).estimate(toy.oracle(0), state)
    assert state.norms[2] == 1.0
    assert estimate.direction.is_finite


def test_norms_are_measured_when_they_are_due_and_not_in_between() -> None:
    """Every option does something."""
    toy, state = network(), State()
    method, seen = Layerwise(EPS, interval=4, beta=0.5, rule=Plain(lr=0.05)), []
    for step in range(9):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        seen.append(list(state.norms))
    assert [a != b for a, b in pairwise(seen)] == [step in (4, 8) for step in range(1, 9)]


def test_one_group_alone_is_probed_and_moved_in_turn() -> None:
    toy = network(restore="exact")
    method, state = Layerwise(EPS, single=True, rule=Plain(lr=0.1)), State()
    for step in range(7):
        before = {block.name: block.array.copy() for block in toy.space.blocks}
        oracle = toy.oracle(step, seed=SEED)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        toy.space.settle()
        moved = [block.name for block in toy.space.blocks if (block.array != before[block.name]).any()]
        assert sorted(moved) == sorted(GROUPS[step % 3])


@pytest.mark.parametrize(("norm", "interval"), [("parameters", 0), ("parameters", 5), ("gradient", 5)])
@pytest.mark.parametrize("single", [False, True])
def test_a_step_costs_what_is_claimed(norm: Any, interval: int, single: bool) -> None:
    """Over 60 steps, leaving out what the first one measures."""
    toy, state, passes, steps = network(), State([1.0, 1.0, 1.0]), 0, 60
    method = Layerwise(EPS, norm=norm, interval=interval, single=single)
    for step in range(1, steps + 1):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, None)
        passes += oracle.passes
    over_weights = 1.0 if single else 2.0  # three groups: to go from one to the next moves both
    ends = (48 + 1) / 61  # the first group and the last, of which each measurement moves only one way
    if norm == "gradient":
        over_weights += (3 - ends / 3 if single else 4 - ends) / interval
    elif interval and not single:
        over_weights += 1 / interval
    assert passes == (2 + 6 / 5 * (norm == "gradient")) * steps
    assert toy.space.passes_over_weights == pytest.approx(over_weights * steps, abs=1)


@pytest.mark.parametrize("norm", ["parameters", "gradient"])
@pytest.mark.parametrize("form", ["variance", "expectation"])
def test_layerwise_learns_and_replays_bit_for_bit(norm: Any, form: Any) -> None:
    method = Layerwise(EPS, norm, form, interval=20, beta=0.5, rule=Plain(lr=5e-3))
    run, again = network("float32"), network("float32")
    before = run.loss(run.theta)
    answers = train(run, method, steps=100)
    train(again, method, steps=100, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.9 * before


def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends() -> None:
    """The norms are in the checkpoint."""
    method = Layerwise(EPS, interval=10, beta=0.5, rule=Plain(lr=LR))

    def steps(toy: Toy, state: State, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 30, SEED)
            for estimate in method.estimate(oracle, state):
                method.rule.apply(estimate, oracle, None)
        toy.space.settle()

    unbroken, resumed = network("float32"), network("float32")
    state, fresh = State(), State()
    steps(unbroken, state, 0, 15)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    steps(unbroken, state, 15, 30)
    steps(resumed, fresh, 15, 30)
    assert resumed.bits == unbroken.bits


@pytest.mark.parametrize(("field", "value"), [("eps", 0.0), ("interval", -1), ("beta", 1.0)])
def test_a_setting_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ZoplatError, match=field):
        Layerwise(**{field: value})
