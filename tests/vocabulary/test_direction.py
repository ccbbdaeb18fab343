"""Directions are vectors by name: their algebra is that of their entries."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoplat import ZERO, Direction, Key
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.rademacher import Rademacher

LAWS = (Gaussian(), Rademacher())
eighths = st.integers(-64, 64).map(lambda n: n / 8)  # sums and products of these are exact
names = st.tuples(st.sampled_from(LAWS), st.builds(Key, st.just(0), st.integers(0, 1), st.integers(0, 2)))
terms = st.lists(st.tuples(eighths, names), max_size=5)


def made(of: list) -> Direction:
    total = ZERO
    for c, (law, key) in of:
        total += c * Direction.of(law, key)
    return total


directions = terms.map(made)


@given(directions, directions, directions)
def test_addition_commutes_and_associates(a: Direction, b: Direction, c: Direction) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)


@given(directions, directions, eighths, eighths)
def test_scaling_distributes(a: Direction, b: Direction, s: float, t: float) -> None:
    assert s * (a + b) == s * a + s * b
    assert (s + t) * a == s * a + t * a
    assert s * (t * a) == (s * t) * a
    assert a * s == s * a


@given(directions)
def test_zero_one_and_minus_one_act_as_in_any_vector_space(a: Direction) -> None:
    assert a + ZERO == ZERO + a == +a == 1 * a == a
    assert a - a == ZERO == 0 * a
    assert -a == -1 * a == ZERO - a
    assert ZERO - (-a) == a
    assert a / 4 == 0.25 * a


@given(directions)
def test_terms_that_cancel_are_removed(a: Direction) -> None:
    assert len(a - a) == 0
    assert not (a - a)
    assert all(c != 0.0 for _, c in a)
    assert bool(a) == (len(a) > 0)


@given(directions, directions)
def test_arithmetic_changes_no_operand(a: Direction, b: Direction) -> None:
    before = dict(a)
    _ = a + b, a - b, 3 * a, a / 2, -a
    assert dict(a) == before


def test_terms_are_equal_if_their_laws_and_keys_are() -> None:
    key = Key(0, 0, 0)
    different = [Direction.of(LAWS[0], key), Direction.of(LAWS[1], key)]
    different += [Direction.of(LAWS[0], k) for k in (Key(1, 0, 0), Key(0, 1, 0), Key(0, 0, 1), key.at(0))]
    assert len(sum(different, ZERO)) == 6
    assert Direction.of(Gaussian(), key) == Direction.of(Gaussian(), Key(0, 0, 0))


def test_the_shared_key_of_a_step_has_the_seed_and_no_draw() -> None:
    assert Key(7, 120, 3).at(100) == Key(7, 100, -1)


@pytest.mark.parametrize(
    ("step", "interval", "first"), [(0, 1, 0), (5, 1, 5), (0, 4, 0), (3, 4, 0), (4, 4, 4), (11, 4, 8), (11, 0, 0)]
)
def test_all_draws_of_an_interval_share_the_key_of_its_first_step(step: int, interval: int, first: int) -> None:
    assert Key(7, step, 3).epoch(interval) == Key(7, first, -1)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_coefficient_that_is_not_finite_is_kept_and_reported(bad: float) -> None:
    z = Direction.of(LAWS[0], Key(0, 0, 0))
    assert z.is_finite
    assert ZERO.is_finite
    assert not (bad * z).is_finite
    assert not (z + bad * z).is_finite


def test_a_direction_reads_as_a_sum() -> None:
    z = Direction.of(LAWS[0], Key(0, 4, 1))
    assert repr(0.5 * z) == "0.5·z[4,1]"
    assert repr(ZERO) == "0"


def test_a_direction_is_not_hashable_and_equals_no_number() -> None:
    with pytest.raises(TypeError):
        hash(ZERO)
    assert ZERO != 0
