"""Parts by layer or label, selections of entries by score, and displacements from an anchor."""

from typing import Any, Literal

import numpy as np
import pytest

from zoplat import Key
from zoplat.testing import linear
from zoplat.testing.problems import like_a_model
from zoplat_plugins.gaussian import Gaussian

SHARES = [0.05, 0.3, 0.5, 1.0]


def magnitude(theta: Any) -> Any:
    return abs(theta)


def test_layers_are_parts_in_order_and_other_blocks_are_parts_by_themselves() -> None:
    space = like_a_model(linear()).space
    assert [{block.layer for block in space.blocks if block in part} for part in space.layers()] == [{0}, {1}]
    assert sum(space.size_of(part) for part in space.layers()) == space.size
    assert [len(part) for part in linear().space.layers()] == [1, 1, 1, 1], "none of its blocks belongs to a layer"


def test_parts_by_label_are_disjoint_and_in_the_order_of_their_first_blocks() -> None:
    space = linear().space
    by_dimensions = space.parts_by(lambda block: len(block.shape))
    assert [sorted(part.names) for part in by_dimensions] == [
        ["row.weight", "square.weight", "tall.weight"],
        ["long.bias"],
    ]
    assert [space.size_of(part) for part in by_dimensions] == [20 + 7 + 40, 20]
    assert space.size_of(space.everything) == space.size
    assert not by_dimensions[0] & by_dimensions[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("keep", ["largest", "smallest"])
@pytest.mark.parametrize("share", SHARES)
def test_select_marks_a_share_of_each_block_by_score(
    share: float, keep: Literal["largest", "smallest"], dtype: str
) -> None:
    toy = linear(dtype=dtype)
    mask = toy.space.buffer("test/mask", fill=7, dtype="uint8")
    toy.space.select(mask, share, magnitude, keep=keep)
    for block in toy.space.blocks:
        chosen, scores = mask.arrays[block.name].astype(bool), np.abs(block.array)
        assert chosen.sum() == np.ceil(share * block.size - 1e-6), "rounded up, unless it is a whole number"
        if 0 < chosen.sum() < block.size:
            inner, outer = scores[chosen], scores[~chosen]
            assert inner.min() > outer.max() if keep == "largest" else inner.max() < outer.min()


def test_select_takes_every_entry_that_ties_with_the_last_one() -> None:
    toy = linear(dtype="float32")
    for block in toy.blocks:
        block.array[:] = 1.0
    toy.space.reset()
    mask = toy.space.buffer("test/mask", dtype="uint8")
    toy.space.select(mask, 0.25, magnitude)
    assert all(array.all() for array in mask.arrays.values())


def test_select_scores_by_buffers_and_leaves_theta_alone() -> None:
    toy = linear()
    start, mask = toy.held, toy.space.buffer("test/mask", dtype="uint8")
    norms = toy.space.broadcast_row("test/norms", {"tall.weight": [0.0, 1.0]})
    toy.space.at(toy.space.draw(Gaussian(), Key(0, 0, 0)))
    toy.space.select(mask, 0.5, lambda theta, row: abs(theta) if row is None else abs(theta) * row, norms)
    assert (mask.arrays["tall.weight"] == [[0, 1]]).all(), "weights whose input has no norm come last"
    np.testing.assert_allclose(toy.held, start, rtol=0, atol=1e-14)


@pytest.mark.parametrize("keep", ["largest", "smallest"])
def test_mark_compares_scores_with_the_bound_of_each_block(keep: Literal["largest", "smallest"]) -> None:
    toy = linear()
    mask = toy.space.buffer("test/mask")
    bounds = {block.name: float(np.abs(block.array.reshape(-1)[i])) for i, block in enumerate(toy.space.blocks)}
    toy.space.mark(mask, bounds, magnitude, keep=keep)
    for block in toy.space.blocks:
        scores, bound = np.abs(block.array), bounds[block.name]
        expected = scores >= bound if keep == "largest" else scores <= bound
        np.testing.assert_array_equal(mask.arrays[block.name], expected)
    assert toy.space.passes_over_weights == 1


def test_displacement_is_theta_minus_the_anchor_on_the_blocks_of_both() -> None:
    toy = linear()
    matrices = toy.space.part(lambda block: len(block.shape) == 2)
    anchor, moved = toy.space.snapshot("test/anchor"), toy.space.buffer("test/moved", on=matrices, fill=5.0)
    start, step = toy.held, 0.1 * toy.space.draw(Gaussian(), Key(0, 0, 0))
    toy.space.add(step)
    toy.space.at(3 * step)
    toy.space.displacement(anchor, moved)
    assert moved.arrays.keys() == matrices.names
    expected = toy.entries(step)
    found = np.concatenate([array.reshape(-1) for array in moved.arrays.values()])
    np.testing.assert_allclose(found, expected[: found.size], rtol=0, atol=1e-14)
    np.testing.assert_allclose(toy.theta, start + expected, rtol=0, atol=1e-14)
