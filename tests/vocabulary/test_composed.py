"""Laws whose entries are computed from those of other directions: names like any others, in every pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from zoplat import Composed, Direction, Key
from zoplat.testing import linear
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class Ratio(Composed):
    """(Σ cz)/(1 + |Σ cz|)."""

    terms: tuple[tuple[Any, float], ...]

    def combine(self, entries: Callable[[Direction], Any]) -> Any:
        total = entries(Direction(dict(self.terms)))
        return total / (abs(total) + 1.0)


def z(draw: int) -> Direction:
    return Direction.of(Gaussian(), Key(3, 0, draw))


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_a_pass_forms_it_beside_random_vectors(restore: Any) -> None:
    """First, in the middle and last in an update, with directions of several terms inside."""
    toy = linear(restore=restore)
    start, inner = toy.theta, 2.0 * z(0) - z(1) + 0.5 * z(2)
    name = Direction.of(Ratio(tuple(inner)), Key(3, 0, 9))
    sums = toy.entries(inner)
    expected = sums / (1 + abs(sums))
    np.testing.assert_allclose(toy.entries(name), expected, rtol=1e-6)
    for direction, random in (
        (name + z(3), z(3)),
        (z(3) + name + z(4), z(3) + z(4)),
        (z(3) + z(4) + name, z(3) + z(4)),
    ):
        np.testing.assert_allclose(toy.entries(direction), expected + toy.entries(random), rtol=1e-6, atol=1e-9)
    toy.space.add(-0.5 * name)
    toy.space.at(0.1 * z(3))
    toy.space.settle()
    np.testing.assert_allclose(toy.theta, start - 0.5 * expected, rtol=0, atol=1e-9)


def test_it_is_kept_to_a_part() -> None:
    toy = linear()
    first, *others = toy.space.blocks
    part = toy.space.part(lambda block: block is first)
    found = toy.entries(Direction.of(Ratio(tuple(z(0))), Key(3, 0, 9)).on(part))
    assert (found[: first.size] != 0).all()
    assert others
    assert (found[first.size :] == 0).all()


def test_without_a_space_it_can_not_be_formed() -> None:
    toy = linear()
    [block, *_] = toy.space.blocks
    with pytest.raises(TypeError, match="Ratio is formed by a space"):
        Ratio(()).fill(np.zeros(block.shape), next(block.tiles()), Key(3, 0, 0), toy.space.noise)
