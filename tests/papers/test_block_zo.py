"""Block-ZO against plain transcriptions of block-wise ZO in arXiv:2402.11592, and its properties."""

from typing import Literal

import numpy as np
import pytest

from zoplat import Estimate, Key, ParameterSpace, StepRule, ZoplatError
from zoplat.core.blocks import Block
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import block_zo
from zoplat_plugins.adam import Adam
from zoplat_plugins.block_zo import BlockZO
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, DECAY = 5, 1e-2, 2e-3, 0.05
Order = Literal["jacobi", "gauss-seidel"]
MODULES = {"module": [["hidden.weight", "hidden.bias"], ["output.weight", "output.bias"]]}
ARRAYS = {"block": [["hidden.weight"], ["hidden.bias"], ["output.weight"], ["output.bias"]]}


def published_loop(toy: Toy, steps: int, parts: list[list[str]], order: Order, decay: float = 0.0) -> list[float]:
    """Part by part on the toy's own arrays: perturb, restore, step at once or at the end; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded = []

    def perturb(step: int, names: list[str], amount: float) -> None:
        for name in names:
            arrays[name] += amount * noise.normal(arrays[name].shape, Key(SEED, step, 0), name).astype(np.float64)

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    def update(step: int, measured: list[tuple[list[str], float]]) -> None:
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        for names, g in measured:
            perturb(step, names, -LR * g)

    for step in range(steps):
        measured: list[tuple[list[str], float]] = []
        for names in parts:
            perturb(step, names, +EPS)
            up = loss()
            perturb(step, names, -2 * EPS)
            down = loss()
            perturb(step, names, +EPS)
            measured.append((names, (up - down) / (2 * EPS)))
            recorded += [up, down]
            if order == "gauss-seidel":
                update(step, measured)
                measured = []
        if order == "jacobi":
            update(step, measured)
    return recorded


@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("order", ["jacobi", "gauss-seidel"])
@pytest.mark.parametrize(("by", "parts"), [*MODULES.items(), *ARRAYS.items()])
def test_block_zo_takes_the_steps_of_the_published_loop(
    by: str, parts: list[list[str]], order: Order, decay: float, restore: Restore
) -> None:
    """30 steps in float64; losses and weights to 1e-9."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, 30, parts, order, decay)
    method = BlockZO(eps=EPS, by=by, order=order, rule=Plain(lr=LR, decay=decay))
    answers = train(toy, method, steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-9)


def estimates(toy: Toy, method: BlockZO) -> list[Estimate]:
    """Those of step 0, none of them applied."""
    return list(method.estimate(toy.oracle(0, seed=SEED), method.init(toy.space)))


def test_the_jacobi_step_is_the_sum_of_mezo_steps_on_single_parts_and_the_other_order_is_not() -> None:
    start = quadratic().theta
    moved = np.zeros(len(start))
    for place in range(4):
        toy = quadratic()
        part = toy.space.part(lambda block, toy=toy, place=place: block is toy.space.blocks[place])
        oracle = toy.oracle(0, seed=SEED)
        [z] = oracle.draw(Gaussian(), 1)
        up, down = oracle.losses(EPS * z.on(part), -EPS * z.on(part))
        toy.space.add(-0.05 * (up - down) / (2 * EPS) * z.on(part))
        moved += toy.theta - start
    ends = []
    for order in ("jacobi", "gauss-seidel"):
        toy = quadratic()
        train(toy, BlockZO(eps=EPS, by="block", order=order, rule=Plain(lr=0.05)), steps=1, seed=SEED)  # type: ignore[arg-type]
        ends.append(toy.theta)
    np.testing.assert_allclose(ends[0], start + moved, rtol=0, atol=1e-12)
    assert np.abs(ends[1] - ends[0]).max() > 1e-3


def test_with_one_part_it_is_mezo_to_the_bit() -> None:
    """ "^" finds the same nothing in every name."""
    one, other = two_layers(dtype="float32"), two_layers(dtype="float32")
    train(one, BlockZO(eps=EPS, by="^", rule=Plain(lr=LR, decay=DECAY)), steps=30, seed=SEED)
    train(other, MeZO(eps=EPS, rule=Plain(lr=LR, decay=DECAY)), steps=30, seed=SEED)
    assert one.bits == other.bits


def test_parts_of_one_shape_get_different_directions() -> None:
    """In one step, and within what is applied."""
    toy = quadratic({"a.weight": (6, 5), "b.weight": (6, 5), "c.weight": (6, 5)})
    [estimate] = estimates(toy, BlockZO(eps=EPS, by="module", order="jacobi"))
    z = toy.entries(toy.oracle(0, seed=SEED).draw(Gaussian(), 1)[0]).reshape(3, 30)
    steps = toy.entries(estimate.direction).reshape(3, 30)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(z[i], z[j])[0, 1]) < 0.6
        assert abs(np.corrcoef(steps[i], steps[j])[0, 1]) < 0.6
    for i in range(3):
        assert abs(np.corrcoef(z[i], steps[i])[0, 1]) > 1 - 1e-9, "each part moves along what it was probed on"


def test_each_estimate_is_zero_outside_of_its_part() -> None:
    toy = quadratic()
    for place, estimate in enumerate(estimates(toy, BlockZO(eps=EPS, by="block"))):
        touched = [block.name for block in toy.space.blocks if estimate.direction.touches(block)]
        assert touched == [toy.space.blocks[place].name]
        assert (len(estimate.losses), estimate.eps) == (2, EPS)


NAMES = {
    "model.embed_tokens.weight": None,
    "model.layers.0.self_attn.q_proj.weight": 0,
    "model.layers.0.self_attn.q_proj.bias": 0,
    "model.layers.0.mlp.fc1.weight": 0,
    "model.layers.1.self_attn.q_proj.weight": 1,
    "model.layers.1.self_attn.q_proj.bias": 1,
    "model.layers.1.mlp.fc1.weight": 1,
    "model.norm.weight": None,
    "model.norm.bias": None,
}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("block", [[i] for i in range(9)]),
        ("module", [[0], [1, 2], [3], [4, 5], [6], [7, 8]]),
        ("layer", [[0], [1, 2, 3], [4, 5, 6], [7, 8]]),
        (r"layers\.\d+\.(self_attn|mlp)", [[0], [1, 2], [3], [4, 5], [6], [7, 8]]),
        ("self_attn|mlp", [[0], [1, 2, 4, 5], [3, 6], [7, 8]]),
        ("layers", [[0], [1, 2, 3, 4, 5, 6], [7, 8]]),
        ("model", [[*range(9)]]),
    ],
)
def test_parts_are_made_by_names_in_the_order_of_registration(by: str, expected: list[list[int]]) -> None:
    blocks = [Block(name, np.zeros((2, 2)), "float64", layer) for name, layer in NAMES.items()]
    space = ParameterSpace(blocks, Backend(ReferenceNoise(), np.empty))
    method = BlockZO(by=by)
    method.init(space)
    assert [[i for i, b in enumerate(blocks) if b in part] for part in space.parts_by(method.label)] == expected


def test_a_name_without_dots_is_a_module_of_its_own() -> None:
    assert len(linear({"words": (3, 2), "hidden": (2, 2)}).space.parts_by(BlockZO(by="layer").label)) == 2


@pytest.mark.parametrize("rule", [Plain(lr=1e-3), Adam(schedule=Plain(lr=1e-3))], ids=["plain", "adam"])
@pytest.mark.parametrize("order", ["jacobi", "gauss-seidel"])
@pytest.mark.parametrize("by", ["block", "module", "^"])
def test_a_step_costs_what_the_box_says(by: str, order: Order, rule: StepRule) -> None:
    """2P forward passes; over θ 3, or 4 less the first and last part, and one for each sweep of the rule; 50 steps."""
    toy, passes = two_layers(), 0
    method = BlockZO(eps=EPS, by=by, order=order, rule=rule)
    state = rule.init(toy.space)
    for step in range(50):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, None):
            rule.apply(estimate, oracle, state)
        passes += oracle.passes
    sizes, sweeps = {"block": [36, 12, 12, 1], "module": [48, 13], "^": [61]}[by], isinstance(rule, Adam)
    if order == "jacobi":
        over_weights = 3 - sizes[-1] / 61 + (1 if sweeps else 1 - sizes[0] / 61)
    else:
        over_weights = 2 + len(sizes) if sweeps else min(3, 1 + len(sizes))
    assert passes / 50 == 2 * len(sizes)
    assert toy.space.passes_over_weights / 50 == pytest.approx(over_weights, abs=0.03)


@pytest.mark.parametrize("order", ["jacobi", "gauss-seidel"])
def test_it_learns_and_its_runs_replay(order: Order) -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    method = BlockZO(eps=EPS, order=order, rule=Plain(lr=LR, decay=DECAY))
    answers = train(run, method, steps=100)
    train(again, method, steps=100, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.6 * two_layers().loss(two_layers().theta)


def test_what_can_not_be_is_refused_and_explained() -> None:
    with pytest.raises(ZoplatError, match="eps must be positive"):
        BlockZO(eps=0.0)
    with pytest.raises(ZoplatError, match=r"regular expression, got \( "):
        BlockZO(by="(")
    with pytest.raises(ZoplatError, match=r"by=layres finds nothing .* such as hidden\.weight"):
        BlockZO(by="layres").init(two_layers().space)
    assert block_zo.zoplat_estimators() == {"block-zo": BlockZO()}
