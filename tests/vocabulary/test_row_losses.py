"""Losses by row: what the oracle answers, counts and records, and who refuses to give them."""

from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Oracle, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.errors import NonFinite
from zoplat.core.losses import LossBackend
from zoplat.testing import two_layers
from zoplat.testing.toys import SHARES
from zoplat.training.opening import open_run
from zoplat.training.ranks import for_ranks
from zoplat.training.setup import objective_of
from zoplat_plugins.gaussian import Gaussian


@pytest.mark.parametrize("strategy", ["sequential", "batched", "streaming"])
def test_one_direction_for_all_rows_is_one_pass_and_an_answer_a_row(strategy: str) -> None:
    toy = two_layers()
    toy.strategy = strategy
    oracle = toy.oracle(0)
    [z] = oracle.draw(Gaussian(), 1)
    at_theta, up = oracle.row_losses(ZERO, 0.1 * z)
    np.testing.assert_allclose(at_theta, [share * toy.loss(toy.theta) for share in SHARES])
    assert up != at_theta
    assert oracle.passes == 2
    assert oracle.answers == [len(SHARES), *at_theta, *up]
    assert oracle.loss == pytest.approx(np.mean([at_theta, up]))


def test_rows_that_share_a_direction_with_their_neighbour_are_computed_together() -> None:
    toy = two_layers()
    oracle = toy.oracle(0)
    one, other = oracle.draw(Gaussian(), 2)
    [found] = oracle.row_losses([one, one, other, other])
    assert toy.space.passes_over_weights == 2
    [again] = toy.oracle(0).row_losses([*[0 * one] * 2, other, other])
    assert found[2:] == pytest.approx(again[2:])


def test_a_recorded_question_has_the_same_answers_and_moves_the_weights_alike() -> None:
    for strategy in ("sequential", "batched"):
        first, again = two_layers(dtype="float32"), two_layers(dtype="float32")
        first.strategy = again.strategy = strategy
        oracle = first.oracle(0)
        zs = oracle.draw(Gaussian(), 4)
        found = oracle.row_losses(zs, ZERO)
        repeated = again.oracle(0, answers=oracle.answers).row_losses(zs, ZERO)
        assert (repeated, again.held.tobytes()) == (found, first.held.tobytes())


def test_the_rows_of_an_auxiliary_batch_are_counted_anew() -> None:
    oracle = two_layers().oracle(0)
    assert oracle.row_count() == oracle.row_count() == oracle.on_batch(1).row_count() == 4
    assert oracle.answers == [4.0, 4.0]


def test_as_many_directions_as_rows_are_asked_for() -> None:
    oracle = two_layers().oracle(0)
    with pytest.raises(ZoplatError, match="along 2 directions, and the batch has 4 rows"):
        oracle.row_losses(oracle.draw(Gaussian(), 2))


@pytest.mark.parametrize("strategy", ["sequential", "batched"])
def test_a_row_without_a_finite_loss_skips_the_step_and_is_on_record(strategy: str) -> None:
    toy = two_layers()
    toy.strategy, toy.loss = strategy, lambda theta: float("nan")
    oracle = toy.oracle(0)
    with pytest.raises(NonFinite, match="loss at step 0"):
        oracle.row_losses(ZERO)
    assert len(oracle.answers) == 5


def test_a_source_of_one_loss_for_a_batch_says_so() -> None:
    class OneLoss(LossBackend):
        def forward(self) -> float:
            return 1.0

    toy = two_layers()
    with pytest.raises(ZoplatError, match="asks for the loss of each row, and here a batch has one"):
        Oracle(toy.space, toy.oracle(0)._key, 0.0, OneLoss()).row_losses(ZERO)


SETTINGS: dict[str, Any] = {"device": "reference", "limit": 16, "batch_size": 4, "steps": 1}


def test_their_mean_is_the_loss_of_the_batch_on_a_device() -> None:
    """With the model's own loss and with a metric, in micro-batches too."""
    for more in ({}, {"micro_batch_size": 3}, {"objective": "accuracy"}):
        run = open_run(resolve({**SETTINGS, **more}))
        rows, whole = run.batches.at(0), run.objective.loss(run.session, run.batches.at(0))
        losses = run.objective.row_losses(run.session, rows)
        assert len(losses) == 4
        assert np.mean(losses) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("objective", ["macro-f1", "adapter:true", "command:true"])
def test_an_objective_that_is_a_score_of_the_whole_batch_is_refused_by_name(objective: str) -> None:
    config = resolve({**SETTINGS, "estimator": "grzo", "objective": objective})
    with pytest.raises(ZoplatError, match=f"'grzo' asks for the loss of each row, and --objective {objective}"):
        objective_of(config)


def test_several_processes_are_refused_by_name() -> None:
    with pytest.raises(ZoplatError, match="'grzo' asks for the loss of each row, which several processes"):
        for_ranks(resolve({**SETTINGS, "estimator": "grzo"}), 2)
