"""Low-rank updates that are not written, and the side terms that take their place in forward passes."""

from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Direction, Key, ParameterSpace, Sampler
from zoplat.core.errors import NonFinite
from zoplat.space.backend import Backend
from zoplat.space.factors import Law
from zoplat.space.rounding import Rounding
from zoplat.testing import Toy, quadratic, train
from zoplat.testing.toys import as_numpy
from zoplat_devices.kernels import native
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_plugins.constant import Constant
from zoplat_plugins.eggroll import OuterProducts
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.subzero import Subspace

EPS = 1e-3
SHAPES = {
    "embed.weight": (30, 6),
    "layer.weight": (8, 12),
    "layer.bias": (8,),
    "row.weight": (1, 9),
    "norm.weight": (6,),
}
LAWS = [LowRank(rank=2, interval=3), LowRank(rank=1, interval=1), Subspace(rank=2, interval=4), OuterProducts(rank=2)]


def a_toy(**changes: Any) -> Toy:
    """A quadratic whose matrices have one, several and many rows."""
    return quadratic(SHAPES).anew(**changes)


def draws(toy: Toy, law: Sampler, step: int, n: int = 1) -> list[Direction]:
    """The first n draws of a step."""
    return [toy.space.draw(law, Key(0, step, i)) for i in range(n)]


def points_of(toy: Toy, *directions: Direction) -> list[Direction]:
    """What forward passes are to add to the arrays; there must be an answer."""
    points = toy.space.low_rank_points(directions)
    assert points is not None
    return points


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_arrays_and_side_terms_together_are_what_plain_arithmetic_gives(law: Sampler) -> None:
    """At every question of ten steps, of two draws each, one of them on a part."""
    toy = a_toy()
    theta = toy.held
    part = toy.space.part(lambda block: block.name != "layer.weight")
    for step in range(10):
        z, y = draws(toy, law, step, 2)
        asked = (ZERO, EPS * z, -EPS * y.on(part))
        for point, direction in zip(points_of(toy, *asked), asked, strict=True):
            np.testing.assert_allclose(
                toy.held + toy.entries(point), theta + toy.entries(direction), rtol=0, atol=1e-12
            )
        move = 0.01 * z - 0.02 * y.on(part)
        toy.space.add(move)
        theta = theta + toy.entries(move)
    np.testing.assert_allclose(toy.theta, theta, rtol=0, atol=1e-12)


def test_updates_that_share_v_leave_the_matrices_alone_until_v_is_renewed() -> None:
    toy = a_toy()
    law, matrices = LowRank(rank=2, interval=5), [name for name, shape in SHAPES.items() if len(shape) == 2]
    start = {name: toy.arrays[name].tolist() for name in SHAPES}
    written = []
    for step in range(11):
        [z] = draws(toy, law, step)
        points_of(toy, EPS * z, -EPS * z)
        written.append(any(toy.arrays[name].tolist() != start[name] for name in matrices))
        start |= {name: toy.arrays[name].tolist() for name in matrices}
        if step:
            assert toy.arrays["norm.weight"].tolist() != start["norm.weight"], "vectors hold θ"
        toy.space.add(0.01 * z)
    assert [step for step, is_written in enumerate(written) if is_written] == [5, 10]
    vectors = sum(toy.arrays[name].size for name in SHAPES if name not in matrices) / toy.space.size
    assert toy.space.passes_over_weights == pytest.approx(2 + 8 * vectors)


def test_the_side_term_of_points_that_share_v_has_the_rank_of_one_draw() -> None:
    toy = a_toy()
    law = LowRank(rank=2, interval=50)
    for step in range(4):
        [z] = draws(toy, law, step)
        points = points_of(toy, EPS * z, -EPS * z)
        terms = toy.space.side_terms(points)
        assert terms is not None
        [term] = terms
        assert term.u["embed.weight"].shape == (2, 30, 2)
        assert term.vt["embed.weight"].shape == (2, 6)
        toy.space.add(0.01 * z)
    assert toy.space.factor_bytes > 0


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_side_terms_are_the_entries_of_the_points(law: Sampler, dtype: str) -> None:
    """For θ itself, two draws on all weights, and the sum of a draw of this step and one of another."""
    toy = a_toy(dtype=dtype, restore="exact")
    [x, y], [z] = draws(toy, law, 1, 2), draws(toy, law, 7)
    toy.space.add(0.25 * draws(toy, law, 0)[0])
    points = points_of(toy, ZERO, x, -0.5 * y, x + 0.25 * z)
    terms = toy.space.side_terms(points)
    assert terms is not None
    assert len(terms) == 2, "the last point has draws of two V"
    for i, point in enumerate(points):
        for block in toy.blocks:
            if len(block.shape) != 2 or block.name not in terms[0].u:
                continue
            found = np.zeros(block.shape)
            for term in terms:
                u, vt = as_numpy(term.u[block.name]), as_numpy(term.vt[block.name])
                found += u[i].astype(float) @ (vt if vt.ndim == 2 else vt[i]).astype(float)
            for tile in block.tiles():
                entries = as_numpy(toy.space.entries(point, tile))
                bound = 5e-3 if dtype == "float16" else 1e-5
                np.testing.assert_allclose(found[tile.start : tile.stop], entries, rtol=0, atol=bound)


def test_what_is_not_of_low_rank_has_no_side_terms_and_nothing_is_done() -> None:
    toy = a_toy()
    start, [z], [dense] = toy.held, draws(toy, LowRank(), 0), draws(toy, Gaussian(), 0)
    scaled = z.scaled(toy.space.buffer("test/h", fill=2.0))
    for asked in ([dense], [z, dense], [scaled], [z, *draws(toy, OuterProducts(), 0)]):
        assert toy.space.low_rank_points(asked) is None
    toy.space.add(0.1 * dense)
    assert toy.space.low_rank_points([z]) is None, "the pending update is dense"
    assert (toy.held == start).all()
    toy.space.settle()
    assert toy.space.low_rank_points([z]) == [z]
    assert toy.space.low_rank_points([float("nan") * z]) is None
    with pytest.raises(NonFinite):
        toy.space.at(float("nan") * z)


def test_decay_is_performed_with_all_that_is_pending() -> None:
    toy, law = a_toy(), LowRank(interval=50)
    [x], [y] = draws(toy, law, 0), draws(toy, law, 1)
    start = toy.held
    toy.space.add(0.1 * x)
    points_of(toy, EPS * y)
    toy.space.add(0.2 * y, decay=0.5)
    assert points_of(toy, EPS * y) == [EPS * y]
    keep = np.concatenate([np.full(a.size, 0.5 if a.ndim == 2 else 1.0) for a in toy.arrays.values()])
    expected = keep * (start + 0.1 * toy.entries(x)) + 0.2 * toy.entries(y)
    np.testing.assert_allclose(toy.held, expected, rtol=0, atol=1e-12)


def test_a_sweep_and_a_snapshot_see_updates_that_are_not_written() -> None:
    toy, law = a_toy(), LowRank(interval=50)
    [x], [y] = draws(toy, law, 0), draws(toy, law, 1)
    expected = toy.held + 0.1 * toy.entries(x)
    toy.space.add(0.1 * x)
    points_of(toy, EPS * y)
    copy = toy.space.snapshot("test/copy")
    held = np.concatenate([as_numpy(copy.arrays[name]).reshape(-1) for name in SHAPES])
    np.testing.assert_allclose(held, expected, rtol=0, atol=1e-7)
    toy.space.add(0.1 * y)
    points_of(toy, EPS * y)
    toy.space.sweep(lambda theta, g: None)
    np.testing.assert_allclose(toy.held, expected + 0.1 * toy.entries(y), rtol=0, atol=1e-12)


def test_sixteen_bit_weights_round_a_sum_of_updates_once() -> None:
    """Thirty updates of a tenth of the gap between two numbers each: rounded one by one, none would be left."""
    toy = a_toy(dtype="float16", restore="exact")
    for array in toy.arrays.values():
        array[:] = 1.0
    toy.space.reset()
    law, [z] = LowRank(rank=1, interval=50), draws(a_toy(), LowRank(rank=1, interval=50), 0)
    for _ in range(30):
        toy.space.add(1e-4 * z)
        points_of(toy, *draws(toy, law, 1))
    off = toy.theta - 1.0 - 3e-3 * toy.entries(z)
    matrices = np.concatenate([np.full(array.size, array.ndim == 2) for array in toy.arrays.values()])
    assert np.abs(off[matrices]).max() <= 2**-11 * 1.1


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_points_one_by_one_and_together_give_the_same_bits_and_so_does_a_replay(law: Sampler) -> None:
    method = MeZO(eps=EPS, queries=2, sampler=law, rule=Constant(lr=0.01))
    toy = a_toy(dtype="float32")
    toy.strategy = "side-terms"
    answers = train(toy, method, steps=13)
    for strategy in ("side-terms", "batched-side-terms"):
        again = a_toy(dtype="float32")
        again.strategy = strategy
        train(again, method, steps=13, answers=answers)
        assert again.bits == toy.bits
    in_place = a_toy(dtype="float32")
    for one, other in zip(train(in_place, method, steps=13), answers, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("law", LAWS[:2], ids=repr)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "master"])
def test_the_fused_backend_writes_the_same_bits(law: Sampler, rounding: Any) -> None:
    kernels = native.kernels(threads=1)
    if kernels is None:
        pytest.skip("no compiled kernels")
    method = MeZO(eps=EPS, sampler=law, rule=Constant(lr=0.01))
    toy = a_toy(dtype="float16", restore="exact", rounding=rounding)
    toy.strategy = "side-terms"
    answers = train(toy, method, steps=8)
    fused = a_toy(dtype="float16", restore="exact", rounding=rounding)
    fused.strategy = "side-terms"
    fused.space = ParameterSpace(fused.blocks, FusedBackend(kernels, np.empty), "exact", rounding)
    train(fused, method, steps=8, answers=answers)
    assert fused.bits == toy.bits


def test_a_law_whose_v_depends_on_the_draw_and_one_that_shares_it_differ() -> None:
    toy = a_toy()
    backend = Backend(toy.noise, np.empty)
    backend.attach(toy.blocks, Rounding())
    found = []
    for law in LAWS:
        known = Law(law, backend)
        assert known.fits
        found.append(len({known.basis(Key(0, step, draw)) for step in range(4) for draw in range(2)}))
    assert found == [2, 4, 1, 8]
    known = Law(LowRank(interval=2), backend)
    assert known.basis(Key(0, 2, -1)) == known.basis(Key(0, 3, 0)) != known.basis(Key(0, 4, -1))
