"""Hybrid ZO–FO against a plain loop, and its properties; what it keeps of a model is in tests/devices."""

import json
from typing import Any

import numpy as np
import pytest

from zoplat import Key, ParameterSpace, StepRule, ZoplatError
from zoplat.core.blocks import Block
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import hybrid
from zoplat_plugins.adam import Adam
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.hybrid import Hybrid, Routed
from zoplat_plugins.linear import Linear
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, FO_LR, DECAY = 5, 1e-2, 2e-3, 5e-3, 0.05
ROUTED = Routed(probed=Plain(lr=LR), exact=Plain(lr=FO_LR))


def loop(toy: Toy, steps: int, first: list[int], decay: float) -> list[float]:
    """Central differences on the blocks `first`, gradients on the others, at the same θ; on the toy's own arrays."""
    assert toy.gradient is not None
    noise, arrays, recorded = ReferenceNoise(), [block.array for block in toy.space.blocks], []

    def flat() -> np.ndarray:
        return np.concatenate([array.reshape(-1) for array in arrays])

    def perturb(step: int, amount: float) -> None:
        for i in first:
            name = toy.space.blocks[i].name
            arrays[i] += amount * noise.normal(arrays[i].shape, Key(SEED, step, 0), name).astype(np.float64)

    for step in range(steps):
        perturb(step, +EPS)
        up = toy.loss(flat())
        perturb(step, -2 * EPS)
        down = toy.loss(flat())
        perturb(step, +EPS)
        base, gradient, at = toy.loss(flat()), toy.gradient(flat()), 0
        for array in arrays:
            if array.ndim == 2:
                array *= 1 - LR * decay
        perturb(step, -LR * (up - down) / (2 * EPS))
        for i, array in enumerate(arrays):
            if i not in first:
                array -= FO_LR * gradient[at : at + array.size].reshape(array.shape)
            at += array.size
        recorded += [up, down, base]
    return recorded


@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_hybrid_takes_the_steps_of_the_plain_loop(last: int, decay: float, restore: Restore) -> None:
    """40 steps in float64; losses and weights to 1e-9. Without layers each array counts as one."""
    plain, toy = quadratic(), quadratic(restore=restore)
    recorded = loop(plain, 40, [*range(4 - last)], decay)
    rule = Routed(probed=Plain(lr=LR, decay=decay), exact=Plain(lr=FO_LR))
    answers = train(toy, Hybrid(eps=EPS, last=last, rule=rule), steps=40, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def test_each_part_moves_as_if_the_other_were_not_there() -> None:
    """The last part as by backpropagation with the first frozen, the first as by MeZO with the last frozen."""
    toy = quadratic()
    assert toy.gradient is not None
    start, method = toy.theta, Hybrid(eps=EPS, last=2, rule=ROUTED)
    gradient = toy.gradient(start)
    train(toy, method, steps=1, seed=SEED)
    np.testing.assert_allclose(toy.theta[27:], (start - FO_LR * gradient)[27:], rtol=0, atol=1e-12)
    other = quadratic()
    part = other.space.everything - method.exact_part(other.space)
    oracle = other.oracle(0, seed=SEED)
    [z] = oracle.draw(Gaussian(), 1)
    up, down = oracle.losses(EPS * z.on(part), -EPS * z.on(part))
    other.space.add(-LR * (up - down) / (2 * EPS) * z.on(part))
    np.testing.assert_allclose(toy.theta[:27], other.theta[:27], rtol=0, atol=1e-12)
    assert (other.theta[27:] == start[27:]).all()


NAMES = {
    "model.embed_tokens.weight": None,
    "model.layers.0.q_proj.weight": 0,
    "model.layers.0.norm.weight": 0,
    "model.layers.1.q_proj.weight": 1,
    "model.layers.1.norm.weight": 1,
    "model.layers.2.q_proj.weight": 2,
    "model.norm.weight": None,
    "lm_head.weight": None,
}
OPT = {"embed.weight": None, "final_layer_norm.weight": None, "layers.0.fc1.weight": 0, "layers.1.fc1.weight": 1}


@pytest.mark.parametrize(
    ("names", "last", "first"), [(NAMES, 1, 5), (NAMES, 2, 3), (NAMES, 3, 1), (NAMES, 9, 1), (OPT, 1, 3), (OPT, 2, 2)]
)
def test_the_gradient_part_is_all_from_the_first_of_the_last_layers_on(
    names: dict[str, int | None], last: int, first: int
) -> None:
    blocks = [Block(name, np.zeros((2, 2)), "float64", layer) for name, layer in names.items()]
    space = ParameterSpace(blocks, Backend(ReferenceNoise(), np.empty))
    assert [b.name for b in blocks if b in Hybrid(last=last).exact_part(space)] == list(names)[first:]


def test_with_nothing_left_for_forward_passes_it_is_refused() -> None:
    blocks = [Block(f"layers.{i}.lora_A.weight", np.zeros((2, 2)), "float64", i) for i in range(2)]
    space = ParameterSpace(blocks, Backend(ReferenceNoise(), np.empty))
    Hybrid(last=1).init(space)
    with pytest.raises(ZoplatError, match=r"last=2 leaves no weights .* 2 layers .* or --estimator sgd"):
        Hybrid(last=2).init(space)
    with pytest.raises(ZoplatError, match="last must be at least 1, got 0"):
        Hybrid(last=0)
    with pytest.raises(ZoplatError, match="eps must be positive"):
        Hybrid(eps=-1.0)


def test_estimates_are_routed_by_their_radius() -> None:
    toy, rule = quadratic(), Routed(probed=Plain(lr=0.0), exact=Adam(schedule=Plain(lr=0.0)))
    state = rule.init_for(toy.space, None)
    assert [buffer.owner for buffer in toy.space.buffers] == ["adam/m", "adam/v"]
    for step in range(3):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in MeZO(eps=EPS).estimate(oracle, None):
            rule.apply(estimate, oracle, state)
        assert state.exact.steps == 0
    for step in range(3):
        oracle = toy.oracle(step, seed=SEED)
        for estimate in Hybrid(eps=EPS, last=2).estimate(oracle, None):
            rule.apply(estimate, oracle, state)
        assert state.exact.steps == step + 1
    m = np.concatenate([array.reshape(-1) for array in state.exact.m.arrays.values()])
    assert (m[:27] == 0).all(), "what is probed leaves no trace in the moments"
    assert (m[27:] != 0).all()


def test_the_states_of_both_rules_survive_a_checkpoint() -> None:
    toy, rule = quadratic(), Routed(probed=Adam(), exact=Adam())
    state = rule.init_for(toy.space, None)
    state.probed.steps, state.exact.steps = 3, 5
    back: Any = state_from_json(
        rule.init_for(toy.space, None), json.loads(json.dumps(state_to_json(state, toy.space))), toy.space
    )
    assert (back.probed.steps, back.exact.steps) == (3, 5)
    assert back.exact.v is state.exact.v


def test_routed_is_a_step_rule_like_any_other() -> None:
    assert hybrid.zoplat_step_rules() == {"routed": Routed(probed=Constant(lr=1e-6), exact=Constant(lr=1e-3))}
    assert not Routed().has_horizon
    assert Routed(exact=Linear()).has_horizon
    assert Routed(probed=Linear()).has_horizon
    assert ROUTED.rate(quadratic().oracle(0)) == LR
    toy = quadratic()
    Routed(probed=Adam(), exact=Adam()).init_for(toy.space, None)
    assert sum(buffer.bytes for buffer in toy.space.buffers) == 2 * 2 * 8 * toy.space.size  # float64 here


@pytest.mark.parametrize("exact", [Plain(lr=FO_LR), Adam(schedule=Plain(lr=FO_LR))], ids=["plain", "adam"])
@pytest.mark.parametrize("last", [1, 3])
def test_a_step_costs_what_the_box_says(last: int, exact: StepRule) -> None:
    """5 forward passes; over θ once and over the probed part twice, or three times where Adam sweeps; 50 steps."""
    toy, passes = quadratic(), 0
    method = Hybrid(eps=EPS, last=last, rule=Routed(Plain(lr=LR), exact))
    state = method.rule.init_for(toy.space, None)
    for step in range(50):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, None):
            method.rule.apply(estimate, oracle, state)
        passes += oracle.passes
    probed = {1: 67, 3: 20}[last] / 87
    assert passes / 50 == 5
    over_weights = 1 + 3 * probed if isinstance(exact, Adam) else 1 + 2 * probed
    assert toy.space.passes_over_weights / 50 == pytest.approx(over_weights, abs=0.03)


def test_it_learns_and_says_that_it_can_not_be_replayed() -> None:
    toy = two_layers()
    before = toy.loss(toy.theta)
    answers = train(toy, Hybrid(eps=EPS, last=2, rule=ROUTED), steps=100)
    assert toy.loss(toy.theta) < 0.5 * before
    with pytest.raises(ZoplatError, match="can't be replayed"):
        train(two_layers(), Hybrid(eps=EPS, last=2, rule=ROUTED), steps=100, answers=answers)


def test_what_is_registered_asks_for_losses_and_a_gradient() -> None:
    method = hybrid.zoplat_estimators()["hybrid"]
    assert method == Hybrid(eps=1e-3, last=1, sampler=Gaussian(), rule=Routed())
    assert method.asks == {"losses", "gradient"}
