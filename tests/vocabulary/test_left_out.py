"""What is left out of a step, by its rule or after a loss that is not finite, and which steps count as skipped."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from zoplat import Estimator
from zoplat.config.layers import resolve
from zoplat.testing import Plain, Toy, quadratic, two_layers
from zoplat.testing.toys import ToyLosses
from zoplat.training.step import Learner
from zoplat_plugins.block_zo import BlockZO
from zoplat_plugins.bszo import BSZO
from zoplat_plugins.dizo import DiZO
from zoplat_plugins.fzoo import FZOO, Normalized
from zoplat_plugins.hybrid import Hybrid, Routed
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.zo_sgd_cons import Conservative

EPS, LR = 1e-3, 1e-3
NORMALIZED = Normalized(schedule=Plain(lr=LR, decay=0.1))
CONFIG = resolve({"steps": 20, "device": "cpu"})


@dataclass
class OnToy:
    """What a learner needs of a session, over a toy."""

    toy: Toy
    strategy: str = "sequential"

    @property
    def space(self) -> Any:
        return self.toy.space


def learner_on(toy: Toy, estimator: Estimator) -> Learner:
    return Learner(replace(CONFIG, estimator=estimator), OnToy(toy))


def flat_at_first(toy: Toy, entries: int) -> Toy:
    """The same loss without the first entries of θ."""
    loss, gradient, mask = toy.loss, toy.gradient, np.ones(toy.theta.size)
    mask[:entries] = 0
    assert gradient is not None
    return toy.anew(loss=lambda theta: loss(mask * theta), gradient=lambda theta: mask * gradient(mask * theta))


def losing(toy: Toy, lost: Callable[[int], bool]) -> list[int]:
    """Make some losses of a toy infinite, by their number; returns a list that has one entry for each so far."""
    loss, seen = toy.loss, list[int]()

    def counted(theta: Any) -> float:
        seen.append(len(seen))
        return float("inf") if lost(seen[-1]) else float(loss(theta))

    toy.loss = counted
    return seen


def test_a_part_whose_losses_are_flat_does_not_keep_the_others_from_moving() -> None:
    """Nor does its weight decay act."""
    toy = flat_at_first(two_layers(), 36)
    learner, start = learner_on(toy, BlockZO(eps=EPS, by="block", rule=NORMALIZED)), toy.theta
    record = learner.make(ToyLosses(toy))
    assert len(record.answers) == 2 * len(toy.blocks)
    assert (toy.theta[36:] != start[36:]).all()
    decays = 1 - LR * 0.1
    np.testing.assert_allclose(toy.theta[:36], start[:36] * decays ** (len(toy.blocks) - 1), rtol=1e-12)
    assert (learner.progress.skipped, learner.skip_reason) == (0, "")


def test_a_flat_probed_part_does_not_keep_the_exact_part_from_moving() -> None:
    toy = flat_at_first(quadratic(), 67)
    rule = Routed(probed=NORMALIZED, exact=Plain(lr=LR))
    learner, start = learner_on(toy, Hybrid(eps=EPS, last=1, rule=rule)), toy.theta
    learner.make(ToyLosses(toy))
    np.testing.assert_allclose(toy.theta[:67], start[:67], rtol=0, atol=1e-12)
    assert np.abs(toy.theta[67:] - start[67:]).max() > 1e-6
    assert learner.progress.skipped == 0


def test_a_step_whose_every_estimate_is_left_out_is_skipped_and_says_why() -> None:
    toy = two_layers().anew(loss=lambda theta: 1.5)
    learner, start = learner_on(toy, BlockZO(eps=EPS, by="block", rule=NORMALIZED)), toy.theta
    for _ in range(2):
        learner.make(ToyLosses(toy))
    np.testing.assert_allclose(toy.theta, start, rtol=0, atol=1e-12)
    assert learner.progress.skipped == 2
    assert "The spread of the losses of step 1 is 0" in learner.skip_reason


@pytest.mark.parametrize(
    "estimator",
    [FZOO(eps=EPS, queries=4, reuse=True, rule=NORMALIZED), BSZO(eps=EPS, rule=NORMALIZED)],
    ids=["fzoo-r", "bszo"],
)
def test_a_method_keeps_nothing_of_an_estimate_that_was_left_out(estimator: Estimator) -> None:
    toy = two_layers()
    learner, loss = learner_on(toy, estimator), toy.loss
    before = str(learner.states["estimator"])
    toy.loss = lambda theta: 1.5
    learner.make(ToyLosses(toy))
    assert str(learner.states["estimator"]) == before
    assert learner.progress.skipped == 1
    toy.loss = loss
    learner.make(ToyLosses(toy))
    assert str(learner.states["estimator"]) != before
    assert learner.progress.skipped == 1


def test_a_loss_that_a_rule_asks_for_ends_the_step_where_it_is_not_finite() -> None:
    toy = two_layers()
    seen = losing(toy, lambda number: number == 3)
    learner, start = learner_on(toy, BlockZO(eps=EPS, by="block", rule=Conservative(Plain(lr=LR)))), toy.theta
    learner.make(ToyLosses(toy))
    assert len(seen) == 5, "two of the first part and three of the rule"
    np.testing.assert_allclose(toy.theta, start, rtol=0, atol=1e-12)
    assert learner.progress.skipped == 1


@pytest.mark.parametrize(
    "estimator",
    [
        BlockZO(eps=EPS, by="block", rule=Plain(lr=LR)),
        DiZO(MeZO(eps=EPS), every=1, rounds=2, targets="weight", rule=Plain(lr=LR)),
    ],
    ids=["block-zo", "dizo"],
)
def test_a_step_that_has_moved_theta_is_not_counted_as_skipped_nor_is_its_replay(estimator: Estimator) -> None:
    """Its last loss is not finite; on the second step none is."""
    toy, again = two_layers(restore="exact"), two_layers(restore="exact")
    learner, replayed, start = learner_on(toy, estimator), learner_on(again, estimator), toy.theta
    whole = learner_on(other := two_layers(), estimator).make(ToyLosses(other))
    seen = losing(toy, lambda number: number >= len(whole.answers) - 1)
    replayed.replay(learner.make(ToyLosses(toy)))
    assert len(seen) == len(whole.answers)
    assert np.abs(toy.theta - start).max() > 1e-4
    assert learner.progress.skipped == replayed.progress.skipped == 0
    replayed.replay(learner.make(ToyLosses(toy)))
    assert learner.progress.skipped == replayed.progress.skipped == 1
    assert again.bits == toy.bits


def test_a_projection_is_made_where_the_inner_step_was_skipped() -> None:
    """Of nine steps, each third of which ends with four losses of a projection, the sixth loses its first loss."""
    toy, asked = two_layers(), list[int]()
    estimator = DiZO(MeZO(eps=EPS), every=3, rounds=2, targets="weight", rule=Plain(lr=LR))
    losing(toy, lambda number: number == 2 + 2 + 6 + 2 + 2)
    learner, start = learner_on(toy, estimator), toy.theta
    for _ in range(9):
        before = toy.theta
        asked.append(len(learner.make(ToyLosses(toy)).answers))
        if learner.progress.step == 6:
            assert np.abs(toy.theta - before).max() > 1e-9
    assert asked == [2, 2, 6, 2, 2, 6, 2, 2, 6]
    assert learner.progress.skipped == 1
    assert np.isfinite(toy.theta).all()
    assert (toy.theta != start).any()
