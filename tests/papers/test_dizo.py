"""DiZO against a plain transcription of its inner loop (arXiv:2502.03304 and the authors' code), and its properties.

How the code was read, for the mode "fo": `tests/cases/test_science.py`.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from zoplat import ZERO, Direction, Estimator, Key, Oracle, ParameterSpace, ZoplatError, held
from zoplat.core.blocks import Block, Part
from zoplat.core.errors import NonFinite
from zoplat.core.example import Example, Row
from zoplat.core.losses import LossBackend
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, quadratic, train, two_layers
from zoplat.testing.toys import ToyLosses
from zoplat.training.batches import Batches
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import dizo
from zoplat_plugins.adam import Adam
from zoplat_plugins.constant import Constant
from zoplat_plugins.dizo import DiZO, Radii
from zoplat_plugins.forward_grad import ForwardGrad
from zoplat_plugins.hizoo import HiZOO
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.mezo_svrg import MeZOSVRG

SEED, EPS, LR, DECAY, STEPS = 5, 1e-2, 2e-2, 0.05, 30
EVERY, ROUNDS, RADIUS_EPS, RADIUS_LR, TAU = 5, 4, 0.1, 2.0, 0.2
CHOSEN = ("hidden.weight", "output.weight")


class OnSomeRows(ToyLosses):
    """`two_layers` on half of its rows; auxiliary batch number i is some of the others."""

    def __init__(self, toy: Toy, asked: list[int]) -> None:
        super().__init__(toy)
        self.asked = asked

    def on_batch(self, index: int) -> LossBackend:
        self.asked.append(index)
        return Other(self.toy, auxiliary(index))


class Other(ToyLosses):
    """The weights of one toy under the loss of another."""

    def __init__(self, toy: Toy, other: Toy) -> None:
        super().__init__(toy)
        self.other = other

    def forward(self) -> float:
        perturbation = self.toy.space.perturbation
        return float(self.other.loss(self.toy.held + self.toy.entries(perturbation) if perturbation else self.toy.held))

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        for mine, block in zip(self.other.space.blocks, self.toy.space.blocks, strict=True):
            mine.array[:] = block.array
        return self.forward(), self.other.by_block(part)


def network(restore: Restore = "in-place", dtype: str = "float64") -> Toy:
    return two_layers(rows=slice(0, 20), restore=restore, dtype=dtype)


def auxiliary(index: int) -> Toy:
    return two_layers(rows=slice(20 + 2 * index, 24 + 2 * index))


def method(**settings: Any) -> DiZO:
    defaults = {"every": EVERY, "rounds": ROUNDS, "radius_eps": RADIUS_EPS, "radius_lr": RADIUS_LR, "tau": TAU}
    inner = settings.pop("inner", MeZO(eps=EPS))
    rule = settings.pop("rule", Plain(lr=LR))
    return DiZO(**{**defaults, "inner": inner, "targets": "weight", "rule": rule, **settings})


def run(
    toy: Toy, estimator: Estimator, steps: int = STEPS, first: int = 0, state: Any = None, rule_state: Any = None
) -> tuple[list[list[float]], list[list[int]]]:
    """Some steps of a run; returns the answers, and the auxiliary batches that each step asked for."""
    state = state or estimator.init(toy.space)
    rule_state = rule_state or estimator.rule.init(toy.space)
    recorded, batches = [], []
    for step in range(first, steps):
        asked: list[int] = []
        oracle = Oracle(toy.space, Key(SEED, step, 0), step / STEPS, OnSomeRows(toy, asked))
        for estimate in estimator.estimate(oracle, state):
            estimator.rule.apply(estimate, oracle, rule_state)
        recorded.append(oracle.answers)
        batches.append(asked)
    toy.space.settle()
    return recorded, batches


Mode = Literal["zo", "fo", "fo-anew"]


class Gamma:
    """γ of the gradient form and Adam's moments of it."""

    def __init__(self, count: int) -> None:
        self.value, self.m, self.v = (np.zeros(count) for _ in range(3))
        self.steps = 0

    def step(self, slopes: np.ndarray) -> None:
        """Adam down the slopes and the pull of Σ|γ|."""
        self.steps += 1
        slopes = slopes + 1e-3 * np.sign(self.value)
        self.m, self.v = 0.9 * self.m + 0.1 * slopes, 0.999 * self.v + 0.001 * slopes**2
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        self.value = self.value - 0.1 * m / (np.sqrt(v) + 1e-8)


def published_loop(toy: Toy, mode: Mode, decay: float = 0.0) -> list[float]:
    """MeZO on the toy's own arrays, and every few steps the loop over γ; returns all losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    anchor = {name: arrays[name].copy() for name in CHOSEN}
    recorded = []
    gamma = Gamma(len(anchor))

    def flat() -> np.ndarray:
        return np.concatenate([array.reshape(-1) for array in arrays.values()])

    def perturb(step: int, amount: float) -> None:
        for name, array in arrays.items():
            array += amount * noise.normal(array.shape, Key(SEED, step, 0), name).astype(np.float64)

    for step in range(STEPS):
        perturb(step, +EPS)
        up = toy.loss(flat())
        perturb(step, -2 * EPS)
        down = toy.loss(flat())
        perturb(step, +EPS)
        for array in arrays.values():
            if array.ndim == 2:
                array *= 1 - LR * decay
        perturb(step, -LR * (up - down) / (2 * EPS))
        recorded += [up, down]
        if (step + 1) % EVERY == 0:
            if mode == "zo":
                recorded += project(arrays, anchor, step)
            else:
                gamma = Gamma(len(anchor)) if mode == "fo-anew" else gamma
                recorded += project(arrays, anchor, step, gamma)
    return recorded


def project(
    arrays: dict[str, np.ndarray], anchor: dict[str, np.ndarray], step: int, descent: Gamma | None = None
) -> list[float]:
    """The loop over γ of §7.2, by forward passes or by gradients; writes into the arrays, returns the losses."""
    delta = {name: arrays[name] - anchor[name] for name in anchor}
    ts = np.array([np.linalg.norm(d) for d in delta.values()])
    recorded = []

    def place(gamma: np.ndarray) -> np.ndarray:
        for name, g, t in zip(anchor, gamma, ts, strict=True):
            arrays[name][:] = anchor[name] + g / t * delta[name]
        return np.concatenate([array.reshape(-1) for array in arrays.values()])

    gamma = ts.copy()
    for i in range(ROUNDS):
        other = auxiliary(i)
        if descent is None:
            numbers = ReferenceNoise().normal((len(ts),), Key(SEED, step, 1 + i), "numbers").astype(np.float64)
            z = np.clip(numbers, -TAU / RADIUS_EPS * ts, TAU / RADIUS_EPS * ts)
            one, two = other.loss(place(gamma + RADIUS_EPS * z)), other.loss(place(gamma - RADIUS_EPS * z))
            g = (one - two) / (2 * RADIUS_EPS)
            gamma = np.clip(gamma - RADIUS_LR * ts * g * z, (1 - TAU) * ts, (1 + TAU) * ts)
            recorded += [one, two]
            continue
        theta = place(descent.value)
        recorded.append(other.loss(theta))
        for block in other.space.blocks:
            block.array[:] = arrays[block.name]
        gradient = other.by_block(other.space.everything)
        descent.step(np.array([(gradient[n] * delta[n]).sum() / t for n, t in zip(delta, ts, strict=True)]))
    place(gamma if descent is None else descent.value)
    return recorded


@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("mode", ["zo", "fo", "fo-anew"])
def test_dizo_takes_the_steps_of_the_published_loop(mode: Mode, decay: float, restore: Restore) -> None:
    """30 steps and 6 projections in float64. Lengths are rounded to 24 bits, so to 1e-6."""
    plain, toy = network(), network(restore)
    recorded = published_loop(plain, mode, decay)
    answers, _ = run(toy, method(mode=mode, rule=Plain(lr=LR, decay=decay)))
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=1e-6, atol=1e-6)


def test_the_projections_above_change_the_run() -> None:
    """Else the transcription would show nothing: ratios differ from 1, and between arrays."""
    toy, other = network(), network()
    run(toy, method())
    run(other, MeZO(eps=EPS, rule=Plain(lr=LR)))
    assert np.abs(toy.theta - other.theta).max() > 1e-2


@pytest.mark.parametrize("settings", [{"tau": 0.0}, {"radius_lr": 0.0}, {"every": STEPS + 1}], ids=str)
def test_without_play_it_is_the_inner_method(settings: dict[str, Any]) -> None:
    """Τ = 0, a step of 0, or no projection within the run: MeZO's bits."""
    toy, other = network("exact", "float32"), network("exact", "float32")
    run(toy, method(**settings))
    run(other, MeZO(eps=EPS, rule=Plain(lr=LR)))
    assert toy.bits == other.bits
    in_place, plain = network(), network()
    run(in_place, method(**settings))
    run(plain, MeZO(eps=EPS, rule=Plain(lr=LR)))
    np.testing.assert_allclose(in_place.theta, plain.theta, rtol=0, atol=1e-12)


def test_ratios_of_one_are_no_move_at_all() -> None:
    """To the bit, whatever the lengths."""
    toy = network("exact", "float32")
    estimator = method(every=100)
    state = estimator.init(toy.space)
    run(toy, estimator, steps=7, state=state)
    travelled = Radii(toy.space, state)
    assert all(t > 0 for t in travelled.lengths)
    assert travelled.move(travelled.lengths) == ZERO


@pytest.mark.parametrize("inner", [MeZO(eps=EPS), MeZO(eps=EPS, sampler=LowRank()), HiZOO(eps=EPS)], ids=repr)
def test_a_projection_changes_how_far_chosen_arrays_have_travelled_and_nothing_else(inner: Estimator) -> None:
    """Ratios within the band, directions unchanged, other arrays with every bit they had."""
    toy, estimator = network("exact"), method(inner=inner, every=1)
    start = {block.name: block.array.copy() for block in toy.space.blocks}
    state = estimator.init(toy.space)
    ratios = []
    for step in range(8):
        oracle = Oracle(toy.space, Key(SEED, step, 0), 0.0, OnSomeRows(toy, []))
        steps = estimator.estimate(oracle, state)
        for estimate in steps:
            estimator.rule.apply(estimate, oracle, None)
            toy.space.settle()
            before = {block.name: block.array.copy() for block in toy.space.blocks}
        toy.space.settle()
        for block in toy.space.blocks:
            if block.name not in CHOSEN:
                np.testing.assert_array_equal(block.array, before[block.name])
                continue
            old, new = (before[block.name] - start[block.name]), (block.array - start[block.name])
            ratio = np.linalg.norm(new) / np.linalg.norm(old)
            assert 1 - TAU - 1e-7 <= ratio <= 1 + TAU + 1e-7
            cosine = (new * old).sum() / np.linalg.norm(new) / np.linalg.norm(old)
            assert cosine == pytest.approx(1, abs=1e-9)
            ratios.append(ratio)
    assert max(ratios) - min(ratios) > 0.05


@pytest.mark.parametrize("mode", ["zo", "fo", "fo-anew"])
def test_what_has_not_moved_is_not_projected(mode: Mode) -> None:
    """Δ = 0 everywhere, so no question is asked, no bit changes and nothing is divided by 0."""
    toy, estimator = network("exact", "float32"), method(mode=mode, every=1, rule=Plain(lr=0.0))
    bits = toy.bits
    answers, batches = run(toy, estimator, steps=3)
    assert toy.bits == bits
    assert [len(step) for step in answers] == [2, 2, 2]
    assert batches == [[], [], []]


def test_an_array_that_has_not_moved_is_left_out_of_the_projection() -> None:
    """For one array of two: it takes no number and no part."""
    toy, estimator = network("exact"), method(every=100)
    state = estimator.init(toy.space)
    part = toy.space.part(lambda block: block.name == "hidden.weight")
    toy.space.add(0.1 * toy.space.draw(MeZO().sampler, Key(1, 0, 0)).on(part))
    travelled = Radii(toy.space, state)
    assert travelled.part == part
    assert travelled.at == [0]
    assert len(travelled.lengths) == 1


def test_the_gradient_form_keeps_the_place_of_an_array_that_has_not_moved() -> None:
    """Of two arrays only the second has: its γ moves, that of the first stays at 0, and so does the array."""
    toy, estimator = network("exact"), method(mode="fo", every=1, rule=Plain(lr=0.0))
    state = estimator.init(toy.space)
    part = toy.space.part(lambda block: block.name == "output.weight")
    toy.space.add(0.1 * toy.space.draw(MeZO().sampler, Key(1, 0, 0)).on(part))
    toy.space.settle()
    first = toy.arrays["hidden.weight"].copy()
    run(toy, estimator, steps=2, state=state)
    assert state.descent.gamma[0] == 0
    assert state.descent.gamma[1] != 0
    assert state.descent.steps == 2 * ROUNDS
    np.testing.assert_array_equal(toy.arrays["hidden.weight"], first)


@pytest.mark.parametrize(("mode", "passes"), [("zo", 2), ("fo", 3)])
def test_a_projection_asks_twice_a_round_each_on_a_batch_of_its_own(mode: Mode, passes: int) -> None:
    """20 forward passes at 10 rounds; the batches of the steps are not touched."""
    toy, estimator = network(), method(mode=mode, rounds=10)
    state = estimator.init(toy.space)
    for step in range(2 * EVERY):
        asked: list[int] = []
        oracle = Oracle(toy.space, Key(SEED, step, 0), 0.0, OnSomeRows(toy, asked))
        for estimate in estimator.estimate(oracle, state):
            estimator.rule.apply(estimate, oracle, None)
        projects = (step + 1) % EVERY == 0
        assert asked == ([*range(10)] if projects else [])
        assert oracle.passes == 2 + (10 * passes if projects else 0)


def test_auxiliary_batches_are_other_rows_and_leave_the_order_of_the_steps_alone() -> None:
    """What the steps see is a function of seed and step, projections or not."""
    rows = [Row(Example(str(i), ("a", "b"), 0), 1, None) for i in range(64)]
    batches = Batches(rows, 4, seed=3)
    before = [batches.at(step) for step in range(20)]
    others = [[row.example.prompt for row in batches.auxiliary(49, i)] for i in range(10)]
    assert len({tuple(other) for other in others}) == 10
    assert [batches.at(step) for step in range(20)] == before
    assert [[row.example.prompt for row in batches.auxiliary(49, i)] for i in range(10)] == others


def test_small_steps_of_the_radius_lower_the_loss_towards_the_best_one() -> None:
    """On a quadratic with one array, noiseless: the loss along Δ falls round by round towards its least."""
    toy = quadratic({"w": (12,)})
    assert toy.gradient is not None
    toy.space.blocks[0].array[:] *= 3
    toy.space.reset()
    estimator = DiZO(targets="w", every=1, rounds=1, tau=0.9, radius_eps=1e-3, radius_lr=0.02, rule=Plain(lr=0.0))
    state = estimator.init(toy.space)
    start = toy.theta
    delta = -0.6 * toy.gradient(start)  # down the hill, and not far enough
    toy.space.add(held_of(toy, delta))
    along = [toy.loss(start + r * delta) for r in np.linspace(0.1, 1.9, 1001)]
    best = np.linspace(0.1, 1.9, 1001)[int(np.argmin(along))]
    assert 1.1 < best < 1.9
    ratios, losses = [1.0], [toy.loss(toy.theta)]
    for step in range(60):
        oracle = toy.oracle(step, seed=SEED)
        estimator.probe(oracle, Radii(toy.space, state))
        moved = toy.theta - start
        ratios.append(float(moved @ delta / (delta @ delta)))
        losses.append(toy.loss(toy.theta))
        np.testing.assert_allclose(moved, ratios[-1] * delta, atol=1e-6)
    assert (np.diff(losses) <= 1e-9).all()
    assert abs(ratios[-1] - best) < 0.25 * abs(1 - best)


def held_of(toy: Toy, entries: np.ndarray) -> Direction:
    buffer = toy.space.buffer("test/step")
    at = 0
    for block in toy.space.blocks:
        buffer.arrays[block.name][:] = entries[at : at + block.size].reshape(block.shape)
        at += block.size
    return held(buffer)


NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.k_proj.bias",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.self_attn.v_proj.bias",
    "model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.0.attention.self.query.weight",
    "model.layers.0.attention.self.value.bias",
    "model.layers.0.mlp.down_proj.weight",
]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("q,v", [1, 4, 6, 7]), ("k,v", [2, 4]), ("lora", [6]), (r"mlp|embed", [0, 9]), ("", [*range(10)])],
)
def test_arrays_are_chosen_by_name(targets: str, expected: list[int]) -> None:
    """The paper's matrices, those of the code, or whatever a regular expression finds.

    The code leaves out every name that has neither "self_attn.v_proj.weight" nor "self_attn.k_proj.weight" in it, and
    so all biases (large_models/trainer.py, where it sets its list of excluded names).
    """
    blocks = [Block(name, np.zeros((2, 2)), "float64") for name in NAMES]
    space = ParameterSpace(blocks, Backend(ReferenceNoise(), np.empty, np.empty))  # type: ignore[arg-type]
    state = DiZO(targets=targets).init(space)
    assert [*state.anchor.arrays] == [*state.travel.arrays] == [NAMES[i] for i in expected]
    assert state.anchor.is_mapped
    assert state.travel.is_mapped


def test_a_choice_of_nothing_is_an_error_and_not_mezo() -> None:
    with pytest.raises(ZoplatError, match=r"targets=q,v finds nothing .* such as hidden\.weight"):
        DiZO().init(two_layers().space)


@pytest.mark.parametrize("mode", ["zo", "fo"])
def test_a_loss_that_is_not_finite_leaves_theta_where_the_step_took_it(mode: Mode) -> None:
    toy, other = network("exact"), network("exact")
    estimator = method(mode=mode, every=1)
    state = estimator.init(toy.space)

    class Broken(OnSomeRows):
        def on_batch(self, index: int) -> LossBackend:
            broken = two_layers()
            if index == 2:
                broken.loss = lambda theta: float("nan")
            return Other(self.toy, broken)

    oracle = Oracle(toy.space, Key(SEED, 0, 0), 0.0, Broken(toy, []))
    steps = estimator.estimate(oracle, state)
    estimator.rule.apply(next(steps), oracle, None)
    with pytest.raises(NonFinite):
        next(steps)
    run(other, MeZO(eps=EPS, rule=Plain(lr=LR)), steps=1)
    np.testing.assert_allclose(toy.theta, other.theta, rtol=0, atol=1e-12)
    assert state.descent.steps == 0, "nor have γ and its moments moved"


def test_runs_replay_and_a_changed_answer_of_a_projection_shows() -> None:
    first, second, third = (two_layers(dtype="float32") for _ in range(3))
    estimator = method(tau=0.9, radius_lr=0.1)  # γ stays within the band
    answers = train(first, estimator, steps=20)
    train(second, estimator, steps=20, answers=answers)
    assert second.bits == first.bits
    answers[9][4] += 1e-3
    train(third, estimator, steps=20, answers=answers)
    assert third.bits != first.bits


@pytest.mark.parametrize("mode", ["zo", "fo"])
def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends(mode: Mode) -> None:
    """The anchor is that of the start of the run, from the checkpoint, not the weights at hand; so are γ's moments."""
    estimator = method(mode=mode, inner=HiZOO(eps=EPS), rule=Adam(schedule=Plain(lr=1e-2)))
    unbroken, resumed = network(dtype="float32"), network(dtype="float32")
    states = [estimator.init(unbroken.space), estimator.rule.init(unbroken.space)]
    run(unbroken, estimator, steps=13, state=states[0], rule_state=states[1])
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
    resumed.space.reset()
    fresh = [estimator.init(resumed.space), estimator.rule.init(resumed.space)]
    for buffer, kept in zip(resumed.space.buffers, unbroken.space.buffers, strict=True):
        for name, array in buffer.arrays.items():
            array[:] = kept.arrays[name]
    packed = json.loads(json.dumps([state_to_json(state, unbroken.space) for state in states]))
    fresh = [state_from_json(state, saved, resumed.space) for state, saved in zip(fresh, packed, strict=True)]
    run(unbroken, estimator, first=13, state=states[0], rule_state=states[1])
    run(resumed, estimator, first=13, state=fresh[0], rule_state=fresh[1])
    assert resumed.bits == unbroken.bits


def test_a_checkpoint_from_before_gamma_was_kept_can_be_resumed() -> None:
    """It has no "descent"; the state keeps the fresh one."""
    toy, estimator = network(), method()
    state = estimator.init(toy.space)
    saved = {name: value for name, value in state_to_json(state, toy.space).items() if name != "descent"}
    assert state_from_json(estimator.init(toy.space), saved, toy.space).descent == state.descent


@pytest.mark.parametrize("rule", [Plain(lr=LR), Adam(schedule=Plain(lr=1e-2))], ids=["plain", "adam"])
@pytest.mark.parametrize("mode", ["zo", "fo"])
def test_a_step_costs_what_the_box_says(mode: Mode, rule: Any) -> None:
    """Over 100 steps; points that clipping makes the same for an array move it once less."""
    toy, passes = network(), 0
    estimator = method(mode=mode, every=10, rule=rule, tau=0.5, radius_lr=0.1)
    state, rule_state = estimator.init(toy.space), rule.init(toy.space)
    for step in range(100):
        oracle = Oracle(toy.space, Key(SEED, step, 0), 0.0, OnSomeRows(toy, []))
        for estimate in estimator.estimate(oracle, state):
            rule.apply(estimate, oracle, rule_state)
        passes += oracle.passes
    is_adam, chosen = isinstance(rule, Adam), 48 / 61
    points = {"zo": 2 * ROUNDS, "fo": ROUNDS}[mode]
    assert passes / 100 == pytest.approx(2 + ROUNDS * {"zo": 2, "fo": 3}[mode] / 10)
    over_weights = 2 + is_adam + (1 - is_adam + chosen * (1 + points)) / 10
    assert toy.space.passes_over_weights / 100 == pytest.approx(over_weights, abs=0.05)
    in_memory = [buffer for buffer in toy.space.buffers if not buffer.is_mapped]
    assert sum(b.bytes for b in in_memory) == 16 * is_adam * toy.space.size  # two moments, float64 here


def refusals() -> Sequence[tuple[dict[str, Any], str]]:
    return [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"radius_eps": 0.0}, "radius_eps must be positive"),
        ({"radius_lr": -1.0}, "radius_lr must be 0 or more"),
        ({"tau": 1.0}, r"tau must lie in \[0, 1\)"),
        ({"inner": MeZOSVRG()}, "inner can't be mezo-svrg"),
        ({"targets": "("}, "targets must be q,v or k,v or a regular expression"),
    ]


@pytest.mark.parametrize(("settings", "words"), refusals())
def test_what_can_not_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ZoplatError, match=words):
        DiZO(**settings)


def test_what_is_registered_asks_what_its_inner_method_asks() -> None:
    assert dizo.zoplat_estimators() == {"dizo": DiZO(inner=MeZO(), every=50, rounds=10, rule=Constant(lr=1e-7))}
    assert DiZO().asks == {"losses"}
    assert DiZO(mode="fo").asks == DiZO(mode="fo-anew").asks == {"losses", "gradient"}
    assert DiZO(inner=ForwardGrad()).asks == {"losses", "jvp"}
    assert DiZO().bias == MeZO().bias
