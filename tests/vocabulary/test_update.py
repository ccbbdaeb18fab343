"""Updates by name: composition, and what they do to one block."""

from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Block, Direction, Key
from zoplat.space.update import NO_UPDATE, Update
from zoplat.testing import linear
from zoplat_plugins.gaussian import Gaussian

MATRIX = Block("w", np.ones((2, 3)))
VECTOR = Block("b", np.ones(3), decays=False)


def z(draw: int) -> Direction:
    return Direction.of(Gaussian(), Key(0, 0, draw))


def test_a_later_decay_shrinks_weights_and_earlier_steps_on_blocks_that_decay() -> None:
    update = Update.along(z(0)).then(z(1), decay=0.5).then(z(2), decay=0.5)
    factor, direction = update.on(MATRIX)
    assert factor == 0.25
    assert direction == 0.25 * z(0) + 0.5 * z(1) + z(2)
    assert update.on(VECTOR) == (1.0, z(0) + z(1) + z(2))
    assert not update.is_uniform


def test_an_update_without_decay_is_one_direction_for_all_blocks() -> None:
    update = NO_UPDATE.then(z(0)).then(-2 * z(1))
    assert update.is_uniform
    assert update.on(MATRIX) == update.on(VECTOR) == (1.0, z(0) - 2 * z(1))


def test_an_update_is_true_if_it_may_change_some_block() -> None:
    part = linear().space.part(lambda block: block.name == "long.bias")
    assert not NO_UPDATE
    assert not Update.along(z(0)).then(-z(0))
    assert NO_UPDATE.then(ZERO, decay=0.1)
    assert NO_UPDATE.then(ZERO, decay=0.1).changes(MATRIX)
    assert not NO_UPDATE.then(ZERO, decay=0.1).changes(VECTOR), "vectors don't decay"
    assert not Update.along(z(0).on(part)).changes(MATRIX)
    assert Update.along(z(0).on(part)).changes(Block("long.bias", np.ones(3)))


@pytest.mark.parametrize("decays", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.3, 0.2)])
def test_one_merged_update_has_the_result_of_its_steps(decays: Any) -> None:
    merged, stepwise = linear(), linear()
    for draw, decay in enumerate(decays):
        for toy in (merged, stepwise):
            toy.space.add(toy.space.draw(Gaussian(), Key(0, 0, draw)), decay)
        stepwise.space.settle()
    np.testing.assert_allclose(merged.theta, stepwise.theta, rtol=0, atol=1e-14)
    assert merged.space.passes_over_weights <= 1 < stepwise.space.passes_over_weights
