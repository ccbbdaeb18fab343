"""Sweeps over factors: kernels that get U and V of a low-rank direction in place of its entries."""

from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Direction, Key, Sampler, ZoplatError
from zoplat.core.blocks import Tile
from zoplat.testing import Toy, linear
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank


def draw(toy: Toy, number: int, step: int = 0, law: Sampler = LowRank(rank=2)) -> Direction:  # noqa: B008
    return toy.space.draw(law, Key(0, step, number))


def check_factors(toy: Toy, direction: Direction, columns: int | None) -> None:
    """Sweep, and compare u vᵀ with the entries of the direction; `columns` is the number of columns of u."""
    seen: list[Tile] = []

    def matrices(theta: Any, u: Any, v: Any, tile: Tile) -> None:
        seen.append(tile)
        if columns is None:
            assert u is None
            assert v is None
            return
        assert u.shape == (tile.shape[0], columns)
        assert v.shape == (tile.shape[1], columns)
        np.testing.assert_allclose(u @ v.T, toy.space.entries(direction, tile), rtol=0, atol=1e-5)

    def vectors(theta: Any, g: Any) -> None:
        assert theta.shape == g.shape
        assert len(g.shape) == 1
        assert (g != 0).any() == (columns is not None)

    toy.space.sweep_factors(matrices, vectors, direction)
    assert {tile.block.name for tile in seen} == {block.name for block in toy.space.blocks if len(block.shape) == 2}
    assert len(seen) > len({tile.block.name for tile in seen}), "the toys' matrices have several tiles"


def test_a_kernel_gets_matrices_in_factors_and_vectors_as_entries() -> None:
    toy = linear()
    check_factors(toy, 0.5 * draw(toy, 0), columns=2)


def test_draws_that_share_v_are_added_up_in_u() -> None:
    toy = linear()
    check_factors(toy, 2.0 * draw(toy, 0) - draw(toy, 1), columns=2)


def test_draws_of_different_v_are_concatenated() -> None:
    toy = linear()
    law = LowRank(rank=2, interval=1)
    check_factors(toy, 2.0 * draw(toy, 0, step=0, law=law) - draw(toy, 0, step=1, law=law), columns=4)


def test_the_zero_direction_has_no_factors() -> None:
    check_factors(linear(), ZERO, columns=None)


def test_a_sweep_over_factors_settles_changes_theta_and_buffers_and_takes_one_pass() -> None:
    toy = linear()
    start, z = toy.held, draw(toy, 0)
    n = toy.space.buffer("test/n", columns=2)
    toy.space.add(0.5 * z)

    def matrices(theta: Any, u: Any, v: Any, n: Any, tile: Tile) -> None:
        n += u
        theta -= 0.1 * n @ v.T

    def vectors(theta: Any, g: Any, n: Any) -> None:
        n += g
        theta -= 0.1 * n

    toy.space.sweep_factors(matrices, vectors, z, n)
    np.testing.assert_allclose(toy.theta, start + 0.4 * toy.entries(z), rtol=0, atol=1e-6)
    assert toy.space.passes_over_weights == 1
    assert toy.space.drift <= 1e-14


def test_a_sweep_over_factors_may_be_limited_to_a_part() -> None:
    toy = linear()
    part, seen = toy.space.part(lambda block: block.name == "tall.weight"), set()

    def matrices(theta: Any, u: Any, v: Any, tile: Tile) -> None:
        seen.add(tile.block.name)

    toy.space.sweep_factors(matrices, lambda theta, g: pytest.fail("no vector is in the part"), draw(toy, 0), on=part)
    assert seen == part.names


@pytest.mark.parametrize("case", ["no factors", "scaled", "other part"])
def test_a_term_without_factors_on_a_matrix_is_an_error(case: str) -> None:
    toy = linear()
    bias = toy.space.part(lambda block: block.name == "long.bias")
    direction = {
        "no factors": draw(toy, 0, law=Gaussian()),
        "scaled": draw(toy, 0).scaled(toy.space.buffer("test/h", fill=1.0)),
        "other part": draw(toy, 0).on(bias),
    }[case]

    def kernel(*arrays: Any) -> None:
        pass

    with pytest.raises(ZoplatError, match=r"A direction of .* has no factors U, V on 'square.weight'"):
        toy.space.sweep_factors(kernel, kernel, direction)


def test_a_law_is_low_rank_if_it_has_factors_on_matrices() -> None:
    space = linear().space
    assert space.is_low_rank(LowRank())
    assert not space.is_low_rank(Gaussian())
    assert not linear({"long.bias": (20,)}).space.is_low_rank(LowRank()), "there is no matrix"
