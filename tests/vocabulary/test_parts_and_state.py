"""Parts, scaled directions, buffers as directions, buffers of other shapes, and reductions over blocks."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Array, Buffer, Direction, Key, Sampler, Tile, held
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import ParameterSpace
from zoplat.testing import Toy, linear
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels import native
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank

MATRICES = 4 * 5 + 1 * 7 + 20 * 2
LIBRARY = native.kernels()


def z(toy: Toy, draw: int = 0, law: Sampler = Gaussian()) -> Direction:  # noqa: B008
    return toy.space.draw(law, Key(0, 0, draw))


def test_a_direction_on_a_part_is_itself_there_and_zero_outside() -> None:
    toy = linear()
    part = toy.space.part(lambda block: len(block.shape) == 1)
    whole, inside = toy.entries(z(toy)), toy.entries(z(toy).on(part))
    assert (inside[:MATRICES] == 0).all()
    assert (inside[MATRICES:] == whole[MATRICES:]).all()
    rest = z(toy).on(toy.space.everything - part)
    np.testing.assert_array_equal(toy.entries(z(toy).on(part) + rest), whole)
    assert len(z(toy).on(part).on(part)) == 1
    assert not toy.entries(rest.on(part)).any()


def test_a_pass_over_a_part_counts_for_its_share_of_the_weights() -> None:
    toy = linear()
    part = toy.space.part(lambda block: block.name == "tall.weight")
    toy.space.at(z(toy).on(part))
    assert toy.space.passes_over_weights == 40 / toy.space.size


def test_a_scaled_direction_reads_its_buffer_whenever_entries_are_generated() -> None:
    toy = linear()
    h = toy.space.buffer("test/h", fill=4.0)
    u = z(toy).scaled(h, -0.5)
    np.testing.assert_allclose(toy.entries(u), toy.entries(z(toy)) / 2)
    for array in h.arrays.values():
        array[:] = 16.0
    np.testing.assert_allclose(toy.entries(u), toy.entries(z(toy)) / 4)


def test_a_buffer_is_a_direction_like_any_other() -> None:
    toy = linear()
    m = toy.space.buffer("test/m", fill=2.0, on=toy.space.part(lambda block: block.name == "long.bias"))
    start = toy.held
    toy.space.add(0.5 * held(m) - z(toy))
    expected = start - toy.entries(z(toy))
    expected[MATRICES:] += 1.0
    np.testing.assert_allclose(toy.theta, expected, atol=1e-12)


def test_latest_keeps_the_newest_terms() -> None:
    toy = linear()
    one, two, three = (z(toy, draw) for draw in range(3))
    total = -2.0 * one + 0.5 * two - three
    assert total.latest(2) == 0.5 * two - three
    assert total.latest(0) == ZERO


def test_a_sweep_on_a_part_leaves_the_rest_alone() -> None:
    toy = linear()
    start = toy.held
    part = toy.space.part(lambda block: block.name == "long.bias")

    def kernel(theta: Any, g: Any) -> None:
        theta += 1.0

    toy.space.sweep(kernel, ZERO, on=part)
    np.testing.assert_allclose(toy.theta - start, np.repeat([0.0, 1.0], [MATRICES, 20]), atol=1e-15)


def test_reduce_settles_and_sums_over_each_block() -> None:
    toy = linear()
    start = toy.held
    toy.space.at(z(toy))
    found = toy.space.reduce(lambda theta, g: (theta * g).sum(), z(toy))
    expected = start * toy.entries(z(toy))
    assert found["long.bias"] == pytest.approx(expected[MATRICES:].sum(), rel=1e-6)
    assert list(found) == [block.name for block in toy.space.blocks]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 1.0])
def test_a_quantile_is_the_least_number_that_a_share_of_the_scores_does_not_exceed(share: float) -> None:
    toy = linear(dtype="float32")
    found = toy.space.quantiles(share, lambda theta: abs(theta))
    for block in toy.space.blocks:
        scores = np.sort(np.abs(block.array).reshape(-1))
        assert found[block.name] == scores[int(np.ceil(share * block.size)) - 1]


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_quantiles_of_float64_weights_are_float64(share: float) -> None:
    toy = linear()
    found = toy.space.quantiles(share, lambda theta: abs(theta))
    for block in toy.space.blocks:
        scores = np.sort(np.abs(block.array).reshape(-1))
        assert found[block.name] == scores[int(np.ceil(share * block.size)) - 1]


def test_a_broadcast_row_is_used_for_every_row_of_its_matrix() -> None:
    toy = linear(dtype="float32")
    norms = toy.space.broadcast_row("test/norms", {"tall.weight": [2.0, 3.0]})
    assert norms not in toy.space.buffers
    found = toy.space.quantiles(1.0, lambda theta, n: abs(theta) if n is None else abs(theta) * n, norms)
    arrays = {block.name: np.abs(block.array) for block in toy.space.blocks}
    assert found["tall.weight"] == (arrays["tall.weight"] * np.array([2, 3], np.float32)).max()
    assert found["long.bias"] == arrays["long.bias"].max()
    seen: list[Any] = []
    toy.space.sweep(lambda theta, g, n: seen.append(None if n is None else n.tolist()), ZERO, norms)
    assert [n for n in seen if n is not None] == [[[2.0, 3.0]]] * 3, "one row for each of three tiles"


def test_dot_is_the_product_of_two_directions_by_block() -> None:
    toy = linear()
    part = toy.space.part(lambda block: len(block.shape) == 2)
    a, b = toy.entries(z(toy)), toy.entries(z(toy, 1))
    found = toy.space.dot(2 * z(toy), z(toy, 1) - z(toy), on=part)
    assert [*found] == [block.name for block in toy.space.blocks if block in part]
    assert found["square.weight"] == pytest.approx((2 * a[:20]) @ (b - a)[:20], rel=1e-6)
    assert sum(found.values()) == pytest.approx((2 * a[:MATRICES]) @ (b - a)[:MATRICES], rel=1e-6)
    length = sum(toy.space.dot(z(toy), z(toy)).values()) ** 0.5
    assert length == pytest.approx(toy.space.norm(z(toy)), rel=1e-6)


def test_a_snapshot_is_a_mapped_copy_of_theta() -> None:
    toy = linear()
    start = toy.held
    toy.space.at(z(toy))
    anchor = toy.space.snapshot("test/anchor", on=toy.space.part(lambda block: len(block.shape) == 2))
    toy.space.add(z(toy))
    assert anchor.is_mapped
    kept = np.concatenate([array.reshape(-1) for array in anchor.arrays.values()])
    np.testing.assert_allclose(kept, start[:MATRICES], atol=1e-12)


def test_a_buffer_may_have_other_columns_and_bytes_for_masks() -> None:
    toy = linear(dtype="float32")
    n = toy.space.buffer("test/n", columns=3)
    assert [array.shape for array in n.arrays.values()] == [(4, 3), (1, 3), (20, 3), (20,)]
    assert toy.space.buffer("test/mask", dtype="uint8").bytes == toy.space.size


def test_buffers_of_rows_of_their_own_are_renewed_whole_after_what_reads_them_is_written() -> None:
    toy = linear()
    matrices = toy.space.part(lambda block: len(block.shape) == 2)
    few = toy.space.buffer("test/few", on=matrices, rows=3, mapped=True)
    m = toy.space.buffer("test/m", fill=0.5, mapped=True)
    assert [array.shape for array in few.arrays.values()] == [(3, 5), (1, 7), (3, 2)]
    assert (few.is_mapped, m.is_mapped) == (False, True)
    start, seen = toy.held, []

    def kernel(tile: Tile, few: Array, m: Array | None = None) -> None:
        seen.append((tile.start, tile.stop, tile.block.shape))
        few += 1
        if m is not None:
            m *= 2

    toy.space.add(z(toy))
    passes = toy.space.passes_over_weights
    toy.space.renew(kernel, few)
    assert toy.space.passes_over_weights == passes  # nothing that is pending reads it
    toy.space.add(held(m) + z(toy).scaled(m))
    toy.space.renew(kernel, few, m)
    toy.space.settle()
    np.testing.assert_allclose(toy.held, start + 1.5 * toy.entries(z(toy)) + 0.5, atol=1e-6)
    assert seen[:3] == [(0, rows, (rows, columns)) for rows, columns in ((4, 5), (1, 7), (20, 2))]
    assert {float(array.sum()) / array.size for array in few.arrays.values()} == {2.0}


@dataclass
class Inner:
    names: Direction
    seen: list[float]


@dataclass
class State:
    m: Buffer
    inner: Inner
    count: int = 0


def test_a_state_survives_a_round_trip_through_json() -> None:
    toy = linear()
    m = toy.space.buffer("test/m")
    part = toy.space.part(lambda block: block.name == "long.bias")
    names = 0.1 * z(toy, 1, LowRank(rank=3)).on(part) - 2 * z(toy).scaled(m, 0.5) + held(m)
    text = json.dumps(state_to_json(State(m, Inner(names, [0.1, 1e-300]), 7), toy.space))
    back = state_from_json(State(m, Inner(ZERO, []), 0), json.loads(text), toy.space)
    assert back == State(m, Inner(names, [0.1, 1e-300]), 7)
    assert json.dumps(state_to_json(back, toy.space)) == text


@pytest.mark.skipif(LIBRARY is None, reason="no C compiler is at hand")
@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_the_fused_backend_has_the_bits_of_the_definition_for_parts_scales_and_buffers(decay: float) -> None:
    plain, fast = linear(dtype="float32"), linear(dtype="float32")
    plain.space = ParameterSpace(plain.space.blocks, Backend(ReferenceNoise(), np.empty))
    fast.space = ParameterSpace(fast.space.blocks, FusedBackend(LIBRARY, np.empty), "in-place")  # type: ignore[arg-type]
    for toy in (plain, fast):
        m = toy.space.buffer("test/m", fill=3.0)
        n = toy.space.buffer("test/n", fill=0.5, on=toy.space.part(lambda block: block.layer is None))
        bias = toy.space.part(lambda block: block.name == "long.bias")
        row = toy.space.part(lambda block: block.name == "row.weight")
        toy.space.at(0.1 * z(toy).on(bias) - 0.3 * z(toy, 1, LowRank()).on(row) + 0.2 * held(m))
        toy.space.add(0.7 * z(toy, 2).on(row) + z(toy, 3).scaled(m, -1.0) - 0.1 * held(n), decay=decay)
        toy.space.at(z(toy, 4).on(bias))
    assert fast.held.tobytes() == plain.held.tobytes()
    assert fast.space.passes_over_weights == plain.space.passes_over_weights
    assert fast.bits == plain.bits
