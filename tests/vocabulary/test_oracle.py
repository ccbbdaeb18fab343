"""The oracle: keys of its draws, losses in order, a record of every answer, and errors for what is not finite."""

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


def test_draws_of_a_step_have_keys_of_seed_step_and_count() -> None:
    oracle = linear().oracle(step=7, seed=3)
    drawn = oracle.draw(Gaussian(), 2) + oracle.draw(Gaussian(), 1)
    keys = [draw.key for direction in drawn for draw, _ in direction]
    assert keys == [Key(3, 7, 0), Key(3, 7, 1), Key(3, 7, 2)]


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_losses_are_those_of_theta_plus_each_direction_in_order(restore: str) -> None:
    toy = linear(restore=restore)  # type: ignore[arg-type]
    theta, oracle = toy.held, toy.oracle(0)
    [z] = oracle.draw(Gaussian(), 1)
    losses = oracle.losses(ZERO, 0.5 * z, -2 * z)
    expected = [toy.loss(theta + c * toy.entries(z)) for c in (0.0, 0.5, -2.0)]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-12)
    assert oracle.answers == losses


@pytest.mark.parametrize("eps", [0.5, 1e-3])
def test_two_sided_slopes_are_central_differences_and_one_sided_ones_share_a_loss(eps: float) -> None:
    toy = linear()
    theta, oracle = toy.held, toy.oracle(0)
    directions = oracle.draw(Gaussian(), 2)
    z, y = (toy.entries(direction) for direction in directions)
    two, one = oracle.slopes(directions, eps), oracle.slopes(directions, eps, side="one")
    points = [theta + eps * z, theta - eps * z, theta + eps * y, theta - eps * y]
    np.testing.assert_allclose(two.losses, [toy.loss(point) for point in points], rtol=0, atol=1e-12)
    np.testing.assert_allclose(one.losses, [toy.loss(point) for point in [theta, *points[::2]]], rtol=0, atol=1e-12)
    ups, downs = two.losses[::2], two.losses[1::2]
    assert two.projected_grads == [(up - down) / (2 * eps) for up, down in zip(ups, downs, strict=True)]
    assert one.projected_grads == [(up - one.losses[0]) / eps for up in one.losses[1:]]
    np.testing.assert_allclose(two.projected_grads, [toy.slope(direction) for direction in directions], rtol=1e-8)
    assert oracle.answers == two.losses + one.losses
    assert oracle.passes == 4 + 3


def test_normals_are_drawn_under_fresh_keys_of_the_step() -> None:
    oracle = linear().oracle(step=3)
    first, second = oracle.normals(4), oracle.normals(4)
    assert first != second
    assert first == linear().oracle(step=3).normals(4) != linear().oracle(step=4).normals(4)
    [(draw, _)] = oracle.draw(Gaussian(), 1)[0]
    assert draw.key.draw == 2, "each call takes the next number of a draw"


def test_all_forward_passes_are_queued_before_the_first_loss_is_waited_for() -> None:
    happened: list[str] = []

    class Pending:
        def __init__(self, number: int) -> None:
            self.number = number

        def __float__(self) -> float:
            happened.append(f"waited for {self.number}")
            return float(self.number)

    class Asynchronous(RecordedLosses):
        def forward(self) -> Pending:  # type: ignore[override]
            happened.append("queued")
            return Pending(int(super().forward()))

    oracle = Oracle(linear().space, Key(0, 0, 0), None, Asynchronous(0, [3.0, 5.0]))
    [z] = oracle.draw(Gaussian(), 1)
    assert oracle.losses(z, -z) == [3.0, 5.0]
    assert happened == ["queued", "queued", "waited for 3", "waited for 5"]
    assert oracle.answers == [3.0, 5.0]
    assert all(type(answer) is float for answer in oracle.answers)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_recorded_and_raises(bad: float) -> None:
    toy = linear()
    start = toy.held
    oracle = Oracle(toy.space, Key(0, 5, 0), None, RecordedLosses(5, [1.0, bad]))
    [z] = oracle.draw(Gaussian(), 1)
    with pytest.raises(NonFinite, match=rf"step 5, θ \+ \(-0.001·z\[5,0\]\), is {bad}"):
        oracle.losses(1e-3 * z, -1e-3 * z)
    assert len(oracle.answers) == 2, "the journal must have both losses"
    np.testing.assert_allclose(toy.theta, start, rtol=0, atol=1e-15)


def test_a_replay_has_the_same_answers_and_updates_without_a_forward_pass() -> None:
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
    assert str(oracle.answers) == "[nan, 1.0]", "the second was queued before the first was known"


def test_too_few_recorded_answers_are_an_error_that_explains_itself() -> None:
    oracle = Oracle(linear().space, Key(0, 12, 0), None, RecordedLosses(12, [1.0]))
    with pytest.raises(ZoplatError, match="has 1 answers for step 12, the estimator asks for more"):
        oracle.losses(ZERO, ZERO)


def test_each_element_of_an_address_and_their_order_change_the_stream() -> None:
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
    assert stream(Key(0, 0, 0), first) == stream(Key(0, 0, 0), block.name), "a tile contributes its block's name"
    assert all(0 <= key < 2**32 for pair in streams for key in pair)
