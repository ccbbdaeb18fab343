"""The lazy space compared with plain arithmetic that performs every update at once."""

import math
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoplat import ZERO, Block, Direction, Key, ParameterSpace
from zoplat.core.errors import NonFinite, ZoplatError
from zoplat.testing import Plain, Toy, linear, quadratic, train
from zoplat.testing.problems import SHAPES
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rademacher import Rademacher

LAWS = (Gaussian(), Rademacher(), LowRank(rank=2, interval=3))
MATRIX = np.concatenate([np.full(math.prod(shape), len(shape) == 2) for shape in SHAPES.values()])

names = st.builds(Direction.of, st.sampled_from(LAWS), st.builds(Key, st.just(0), st.integers(0, 4), st.just(0)))
coefficients = st.floats(-1, 1, width=32)
directions = st.lists(st.tuples(coefficients, names), max_size=3).map(
    lambda pairs: sum((c * z for c, z in pairs), ZERO)
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), directions, st.sampled_from([0.0, 0.0, 0.1, 0.5])),
        st.tuples(st.just("at"), directions, st.just(0.0)),
        st.tuples(st.sampled_from(["settle", "settle some"]), st.just(ZERO), st.just(0.0)),
    ),
    max_size=8,
)


class Eager:
    """θ as a float64 vector that every update changes at once; no restore, no merging."""

    def __init__(self, toy: Toy) -> None:
        self.toy, self.theta, self.probe = toy, toy.held, 0.0 * toy.held

    def do(self, action: str, direction: Direction, decay: float) -> None:
        if action == "add":
            self.theta = np.where(MATRIX, 1 - decay, 1.0) * self.theta + self.toy.entries(direction)
        elif action != "settle some":
            self.probe = self.toy.entries(direction)


def perform(space: ParameterSpace, action: str, direction: Direction, decay: float) -> None:
    """The same action on a space."""
    if action == "add":
        space.add(direction, decay)
    elif action == "at":
        space.at(direction)
    elif action == "settle":
        space.settle()
    else:
        for block in space.blocks[::2]:
            space.settle_block(block)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_blocks_settled_one_by_one_hold_what_one_pass_gives_and_count_as_one(rounding: Any) -> None:
    held = []
    for one_by_one in (True, False):
        toy = quadratic(dtype="float16", restore="exact").anew(rounding=rounding)
        z, y = (toy.space.draw(law, Key(0, 0, i)) for i, law in enumerate(LAWS[:2]))
        for move in (z, 0.5 * y - z):
            toy.space.add(0.01 * move, decay=0.1)
            for block in toy.space.blocks[::-1] if one_by_one else ():
                toy.space.settle_block(block)
            toy.space.settle()
        held.append((toy.held.tolist(), toy.space.passes_over_weights))
    assert held[0] == held[1]
    assert held[0][1] == 2.0


def test_perturb_shows_a_forward_pass_a_point_before_the_arrays_are_settled_block_by_block() -> None:
    toy = linear(restore="exact")
    start, z, y = toy.held, *(toy.space.draw(Gaussian(), Key(0, 0, i)) for i in range(2))
    toy.space.add(0.1 * z)
    toy.space.perturb(y)
    assert (toy.held == start).all(), "nothing is written yet"
    for block in toy.space.blocks:
        toy.space.settle_block(block)
    np.testing.assert_allclose(toy.held, start + 0.1 * toy.entries(z), rtol=0, atol=1e-14)
    assert toy.forward() == pytest.approx(toy.loss(toy.held + toy.entries(y)), rel=1e-12)
    toy.space.settle()
    assert toy.space.perturbation == ZERO
    assert toy.space.passes_over_weights == 1


def test_an_update_in_the_middle_of_a_pass_finishes_the_pass_first() -> None:
    toy = linear()
    start, z = toy.held, toy.space.draw(Gaussian(), Key(0, 0, 0))
    toy.space.add(0.1 * z)
    toy.space.settle_block(toy.space.blocks[0])
    toy.space.add(0.2 * z, decay=0.5)
    expected = np.where(MATRIX, 0.5, 1.0) * (start + 0.1 * toy.entries(z)) + 0.2 * toy.entries(z)
    np.testing.assert_allclose(toy.theta, expected, rtol=0, atol=1e-14)


@settings(max_examples=40)
@given(actions)
def test_any_sequence_of_updates_ends_where_plain_arithmetic_ends(moves: list[Any]) -> None:
    toy = linear()
    eager = Eager(toy)
    for move in moves:
        perform(toy.space, *move)
        eager.do(*move)
        if move[0] in ("at", "settle"):
            np.testing.assert_allclose(toy.held, eager.theta + eager.probe, rtol=0, atol=1e-12)
    np.testing.assert_allclose(toy.theta, eager.theta, rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(actions)
def test_exact_restore_ends_at_the_same_theta_and_never_perturbs_the_arrays(moves: list[Any]) -> None:
    toy = linear(restore="exact")
    eager = Eager(toy)
    for move in moves:
        perform(toy.space, *move)
        eager.do(*move)
        if move[0] in ("at", "settle"):
            np.testing.assert_allclose(toy.held, eager.theta, rtol=0, atol=1e-12)
            seen = toy.held + toy.entries(toy.space.perturbation)
            np.testing.assert_allclose(seen, eager.theta + eager.probe, rtol=0, atol=1e-12)
    np.testing.assert_allclose(toy.theta, eager.theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("queries", [1, 3])
def test_a_two_sided_step_costs_two_passes_for_each_direction(queries: int) -> None:
    toy = quadratic()
    state = None
    estimator = MeZO(queries=queries, rule=Plain(lr=1e-3, decay=0.1))
    for step in range(10):
        oracle = toy.oracle(step)
        for estimate in estimator.estimate(oracle, state):
            estimator.rule.apply(estimate, oracle, state)
    assert toy.space.passes_over_weights == 10 * 2 * queries
    toy.space.settle()
    assert toy.space.passes_over_weights == 10 * 2 * queries + 1


def test_settling_twice_is_settling_once() -> None:
    toy = linear(dtype="float32")
    z = toy.space.draw(Gaussian(), Key(0, 0, 0))
    toy.space.at(1e-3 * z)
    toy.space.add(0.1 * z, decay=0.25)
    toy.space.settle()
    passes, bits = toy.space.passes_over_weights, toy.bits
    toy.space.settle()
    assert toy.bits == bits
    assert toy.space.passes_over_weights == passes


def test_going_to_where_the_arrays_are_takes_no_pass() -> None:
    toy = linear()
    z = toy.space.draw(Gaussian(), Key(0, 0, 0))
    toy.space.at(ZERO)
    assert toy.space.passes_over_weights == 0
    toy.space.at(0.5 * z)
    toy.space.at(0.5 * z)
    assert toy.space.passes_over_weights == 1
    toy.space.add(0.5 * z)
    toy.space.at(ZERO)
    assert toy.space.passes_over_weights == 1, "θ is now what the arrays hold, so no pass is needed"


def test_decay_applies_to_blocks_that_decay_and_to_what_was_added_before() -> None:
    toy = linear()
    start, z = toy.held, toy.space.draw(Gaussian(), Key(0, 0, 0))
    toy.space.add(z)
    toy.space.add(ZERO, decay=0.5)
    expected = np.where(MATRIX, 0.5, 1.0) * (start + toy.entries(z))
    np.testing.assert_allclose(toy.theta, expected, rtol=1e-15, atol=1e-15)


def test_decay_alone_is_one_exact_multiplication_and_leaves_vectors_bit_for_bit() -> None:
    for dtype in ("float64", "float32"):
        toy = linear(dtype=dtype)
        expected = np.where(MATRIX, 1 - 0.3, 1.0).astype(dtype) * toy.held.astype(dtype)
        toy.space.add(ZERO, decay=0.3)
        assert (toy.theta == expected).all()
        assert toy.space.passes_over_weights == MATRIX.sum() / MATRIX.size, "a pass over the matrices alone"


def test_exact_restore_keeps_every_bit_and_in_place_restore_leaves_rounding_errors() -> None:
    for dtype, ulps in (("float32", 2.0**-23), ("float16", 2.0**-10)):
        exact, in_place = linear(dtype=dtype, restore="exact"), linear(dtype=dtype)
        start, bits = exact.held, exact.bits
        for toy in (exact, in_place):
            for step in range(5):
                z = toy.space.draw(Gaussian(), Key(0, step, 0))
                toy.space.at(1e-2 * z)
                toy.space.at(-1e-2 * z)
        assert exact.bits == bits
        off = np.abs(in_place.theta - start)
        assert 0 < off.max() <= 10 * ulps * 4, "ten passes, each off by at most half an ulp of a weight below 4"


def test_reset_takes_what_the_arrays_hold_as_theta() -> None:
    toy = linear()
    z = toy.space.draw(Gaussian(), Key(0, 0, 0))
    toy.space.at(z)
    for block in toy.space.blocks:
        block.array[:] = 2.0
    toy.space.reset()
    assert (toy.theta == 2.0).all()
    assert toy.space.drift == 0.0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_updates_that_are_not_finite_are_refused_and_change_nothing(bad: float) -> None:
    toy = linear()
    start, z = toy.bits, toy.space.draw(Gaussian(), Key(0, 0, 0))
    for move in (lambda: toy.space.add(bad * z), lambda: toy.space.at(bad * z)):
        with pytest.raises(NonFinite, match="not finite"):
            move()
    with pytest.raises(NonFinite):
        toy.space.add(z, decay=bad)
    assert toy.bits == start
    assert issubclass(NonFinite, ZoplatError)


def test_tiles_are_whole_rows_in_order_and_cover_every_entry_once() -> None:
    for shape in ((9, 4), (1, 7), (7, 1), (12,), (3, 100)):
        block = Block("w", np.arange(math.prod(shape), dtype=np.float32).reshape(shape))
        for entries in (1, 4, 10, 1000):
            tiles = list(block.tiles(entries))
            pieces = [tile.of(block.array) for tile in tiles]
            assert (np.concatenate(pieces) == block.array).all()
            assert [piece.shape for piece in pieces] == [tile.shape for tile in tiles]
            assert sum(tile.size for tile in tiles) == block.size
            assert all(tile.is_matrix == (len(shape) == 2) for tile in tiles)
            assert all(tile.size <= max(entries, math.prod(shape[1:])) for tile in tiles)


def test_entries_follow_their_definition_term_by_term_in_float32() -> None:
    toy = linear(dtype="float32")
    keys = [Key(0, step, 0) for step in range(3)]
    direction = 0.1 * Direction.of(Gaussian(), keys[0]) + 0.7 * Direction.of(Rademacher(), keys[1])
    direction += -1.3 * Direction.of(Gaussian(), keys[2])
    noise = ReferenceNoise()
    for block in toy.space.blocks:
        laws = (noise.normal, noise.sign, noise.normal)
        z = [law(block.shape, key, block.name) for law, key in zip(laws, keys, strict=True)]
        expected = np.float32(0.1) * z[0]
        expected = expected + np.float32(0.7) * z[1]
        expected = expected + np.float32(-1.3) * z[2]
        got = np.concatenate([toy.space.entries(direction, tile).copy() for tile in block.tiles()])
        assert (got == expected).all()
        assert got.dtype == np.float32


def test_norm_is_the_length_of_all_entries() -> None:
    toy = linear()
    d = toy.space.draw(Gaussian(), Key(0, 0, 0)) - 2 * toy.space.draw(Gaussian(), Key(0, 0, 1))
    assert toy.space.norm(d) == pytest.approx(float(np.linalg.norm(toy.entries(d))), rel=1e-7)  # rounded to float32
    assert toy.space.norm(ZERO) == 0.0


def test_a_sweep_settles_and_writes_every_tile_in_one_pass() -> None:
    toy = linear()
    start, z = toy.held, toy.space.draw(Gaussian(), Key(0, 0, 0))
    momentum = toy.space.buffer("test/m", fill=1.0)
    toy.space.at(1e-3 * z)
    toy.space.add(0.5 * z)

    def kernel(theta: Any, g: Any, m: Any) -> None:
        m *= 0.5
        m += g
        theta -= 0.1 * m

    toy.space.sweep(kernel, z, momentum)
    m = 0.5 + toy.entries(z)
    held = np.concatenate([momentum.arrays[block.name].reshape(-1) for block in toy.space.blocks])
    np.testing.assert_allclose(held, m, rtol=1e-12)
    np.testing.assert_allclose(toy.theta, start + 0.5 * toy.entries(z) - 0.1 * m, rtol=0, atol=1e-6)
    assert toy.space.passes_over_weights == 2, "one perturbation, and one sweep that settles as it goes"


def test_a_buffer_is_float32_filled_and_in_the_ledger() -> None:
    toy = linear(dtype="float16")
    buffer = toy.space.buffer("hizoo/h", fill=1.5)
    assert toy.space.buffers == [buffer]
    assert buffer.owner == "hizoo/h"
    assert buffer.bytes == 4 * toy.space.size
    for block in toy.space.blocks:
        array = buffer.arrays[block.name]
        assert array.shape == block.shape
        assert array.dtype == np.float32
        assert (array == 1.5).all()


def test_scratch_is_the_size_of_a_tile_and_not_of_a_block() -> None:
    toy = linear(dtype="float32")
    train(toy, MeZO(queries=2, rule=Plain(lr=1e-3)), steps=2)
    assert 0 < toy.space.scratch_bytes <= 3 * 20 * 4, "three float32 arrays of one tile of at most 20 entries"


def test_drift_is_the_relative_size_of_a_change_from_outside() -> None:
    toy = linear()
    assert toy.space.drift == 0.0
    for block in toy.space.blocks:
        block.array[:] *= 1.001
    assert toy.space.drift == pytest.approx(1e-3, rel=1e-9)


def test_drift_of_one_entry_is_exact() -> None:
    shapes = {"w": (5, 3)}
    toy = linear(shapes)
    start = toy.held
    toy.space.blocks[0].array[0, 0] += 0.25
    assert toy.space.drift == pytest.approx(0.25 / np.linalg.norm(start), rel=1e-7)  # rounded to float32


def test_updates_decay_and_sweeps_cause_no_drift() -> None:
    toy = linear()
    m = toy.space.buffer("test/m")

    def kernel(theta: Any, g: Any, m: Any) -> None:
        theta *= 0.9
        theta += g

    for step in range(5):
        z = toy.space.draw(Gaussian(), Key(0, step, 0))
        toy.space.at(1e-3 * z)
        toy.space.at(-1e-3 * z)
        toy.space.add(0.1 * z, decay=0.05)
        toy.space.sweep(kernel, z, m)
    assert toy.space.drift <= 1e-14


def test_in_place_perturbations_of_float16_cause_drift_and_exact_restore_does_not() -> None:
    drifts = {}
    for restore in ("in-place", "exact"):
        toy = linear(dtype="float16", restore=restore)  # type: ignore[arg-type]
        train(toy, MeZO(eps=1e-2, rule=Plain(lr=0.0)), steps=20)
        drifts[restore] = toy.space.drift
    assert drifts["exact"] == 0.0
    assert 1e-4 < drifts["in-place"] < 1e-2, "40 roundings of 2⁻¹¹ each, as a random walk: about 1e-3"


def test_phases_are_entered_around_passes_and_sweeps() -> None:
    phases = []

    @contextmanager
    def record(phase: str) -> Any:
        phases.append(phase)
        yield

    toy = linear()
    toy.space.time_phases(record)
    toy.space.at(toy.space.draw(Gaussian(), Key(0, 0, 0)))
    toy.space.sweep(lambda theta, g: None)
    assert phases == ["move", "rule"]
