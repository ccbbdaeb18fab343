"""The oracle: names its draws, answers in order, notes every answer, refuses what is not finite."""

import math

import numpy as np
import pytest

from zoplat import ZERO, Key, ZoplatError
from zoplat.core.errors import NonFinite
from zoplat.core.losses import RecordedLosses
from zoplat.core.noise import stream
from zoplat.core.oracle import Oracle
from zoplat.testing import Plain, linear, train
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO


def test_draws_of_a_step_are_fresh_and_named_by_seed_step_and_count() -> None:
    oracle = linear().oracle(step=7, seed=3)
    drawn = oracle.draw(Gaussian(), 2) + oracle.draw(Gaussian(), 1)
    keys = [draw.key for direction in drawn for draw, _ in direction]
    assert keys == [Key(3, 7, 0), Key(3, 7, 1), Key(3, 7, 2)]


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_losses_are_those_of_theta_plus_each_direction_in_order(restore: str) -> None:
    toy = linear(restore=restore)  # type: ignore[arg-type]
    theta, oracle = toy.held, toy.oracle(0)
    [z] = oracle.draw(Gaussian(), 1)
    told = oracle.losses(ZERO, 0.5 * z, -2 * z)
    expected = [toy.loss(theta + c * toy.entries(z)) for c in (0.0, 0.5, -2.0)]
    np.testing.assert_allclose(told, expected, rtol=0, atol=1e-12)
    assert oracle.answers == told


def test_all_points_of_a_question_are_asked_for_before_an_answer_is_waited_for() -> None:
    happened: list[str] = []

    class Later:
        def __init__(self, number: int) -> None:
            self.number = number

        def __float__(self) -> float:
            happened.append(f"waited for {self.number}")
            return float(self.number)

    class Busy(RecordedLosses):
        def forward(self) -> Later:  # type: ignore[override]
            happened.append("asked")
            return Later(int(super().forward()))

    oracle = Oracle(linear().space, Key(0, 0, 0), None, Busy(0, [3.0, 5.0]))
    [z] = oracle.draw(Gaussian(), 1)
    assert oracle.losses(z, -z) == [3.0, 5.0]
    assert happened == ["asked", "asked", "waited for 3", "waited for 5"]
    assert oracle.answers == [3.0, 5.0]
    assert all(type(answer) is float for answer in oracle.answers)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_noted_and_named(bad: float) -> None:
    toy = linear()
    start = toy.held
    oracle = Oracle(toy.space, Key(0, 5, 0), None, RecordedLosses(5, [1.0, bad]))
    [z] = oracle.draw(Gaussian(), 1)
    with pytest.raises(NonFinite, match=rf"step 5, θ \+ \(-0.001·z\[5,0\]\), is {bad}"):
        oracle.losses(1e-3 * z, -1e-3 * z)
    assert len(oracle.answers) == 2, "the journal must show what was answered"
    np.testing.assert_allclose(toy.theta, start, rtol=0, atol=1e-15)


def test_a_recorded_oracle_repeats_answers_and_makes_the_same_moves() -> None:
    first, second = linear(), linear()
    answers = train(first, MeZO(rule=Plain(lr=0.1)), steps=3)
    second.loss = lambda theta: pytest.fail("a replay runs no forward pass")  # type: ignore[assignment,return-value]
    assert train(second, MeZO(rule=Plain(lr=0.1)), steps=3, answers=answers) == answers
    assert first.bits == second.bits


def test_a_recorded_answer_that_is_not_finite_skips_the_step_again() -> None:
    oracle = Oracle(linear().space, Key(0, 0, 0), None, RecordedLosses(0, [math.nan, 1.0]))
    [z] = oracle.draw(Gaussian(), 1)
    with pytest.raises(NonFinite):
        oracle.losses(z, -z)
    assert str(oracle.answers) == "[nan, 1.0]", "the second was asked for before the first was known"


def test_too_few_recorded_answers_are_an_error_that_says_what_to_think() -> None:
    oracle = Oracle(linear().space, Key(0, 12, 0), None, RecordedLosses(12, [1.0]))
    with pytest.raises(ZoplatError, match="has 1 answers for step 12, the estimator asks for more"):
        oracle.losses(ZERO, ZERO)


def test_an_address_is_told_apart_by_each_of_its_parts_and_by_their_order() -> None:
    block = linear().space.blocks[0]
    [first, *_] = block.tiles()
    addresses = [
        (Key(0, 0, 0), "w"),
        (Key(1, 0, 0), "w"),
        (Key(0, 1, 0), "w"),
        (Key(0, 0, 1), "w"),
        (Key(0, 0, -1), "w"),
        (Key(10, 1, 0), "w"),
        (Key(1, 0, 10), "w"),
        (Key(0, 0, 0), "v"),
        (Key(0, 0, 0), "w", "U"),
        (Key(0, 0, 0), "wU"),
        ("w", Key(0, 0, 0)),
        (Key(0, 0, 0),),
    ]
    streams = [stream(*address) for address in addresses]
    assert len(set(streams)) == len(addresses)
    assert stream(Key(0, 0, 0), first) == stream(Key(0, 0, 0), block.name), "a tile stands for its block's name"
    assert all(0 <= key < 2**32 for pair in streams for key in pair)
