"""What every estimator promises, as tests to inherit."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np

from zoplat.core.estimator import Estimator
from zoplat.testing.costs import dry_run_agrees
from zoplat.testing.directions import Directions
from zoplat.testing.kept import foreign, nothing_kept_aside
from zoplat.testing.measures import all_finite, faulty_oracle, learns, moved_shares, resumes_exactly, through_json
from zoplat.testing.parts import changed, random_states_untouched, variations, with_rate, without
from zoplat.testing.portable import runs_on_torch
from zoplat.testing.problems import a_network, a_quadratic
from zoplat.testing.recording import RecordingOracle
from zoplat.testing.runs import Plain, Run, Sweeping, train
from zoplat.testing.toys import Toy
from zoplat.testing.under_test import ROUNDING


class EstimatorContract(Directions):
    """Inherit, and set `estimator`; it runs on losses of about 60 to 90 weights.

    The blocks are named as in a language model: "layers.0.self_attn.q_proj.weight". Where a step takes more than four
    directions, it runs with four. Most properties are tested with a rule that steps along the estimate; where it
    says "own rule", with the rule in its field.

    Attributes:
        estimator: the estimator, as it is registered.
        lr: step size on the toys, where learning is not tested; found by trial runs when 0.
    """

    def test_a_recorded_run_replays_to_the_same_bits(self) -> None:
        self._replays(self.plain, steps=25)

    def test_a_recorded_run_replays_to_the_same_bits_with_its_own_rule(self) -> None:
        self._replays(self.own, steps=20)

    def test_a_changed_answer_changes_the_bits_of_a_replay(self) -> None:
        """One of the answers of step 12, by 0.01: not every answer needs to matter, but one does."""
        self.skip_with_gradients()
        first = a_network()
        answers = train(first, self.plain, steps=16)
        for i in range(len(answers[12])):
            second, others = a_network(), [list(step) for step in answers]
            others[12][i] += 0.01
            train(second, self.plain, steps=16, answers=others)
            if first.bits != second.bits:
                return
        raise AssertionError(
            f"Each of the {len(answers[12])} answers of step 12 was changed by 0.01, and the weights were the same."
        )

    def test_a_run_that_was_stopped_goes_on_to_the_same_bits(self) -> None:
        """Weights, buffers and the states as JSON at step 7 are all that it needs."""
        resumes_exactly(self.plain)

    def test_a_run_that_was_stopped_goes_on_to_the_same_bits_with_its_own_rule(self) -> None:
        resumes_exactly(self.own)

    def test_exact_and_in_place_restore_agree_within_rounding(self) -> None:
        self._agree(a_network(restore="exact"), a_network(restore="in-place"), "under 'exact' and 'in-place'")

    def test_answers_asked_together_agree_with_answers_asked_one_by_one(self) -> None:
        together = a_network()
        together.strategy = "batched"
        self._agree(together, a_network(), "in one batch and one by one")

    def test_how_blocks_are_cut_and_visited_changes_nothing(self) -> None:
        fine = a_quadratic().anew(grid=7, backwards=True)
        self._agree(fine, a_quadratic().anew(grid=1000), "in fine tiles backwards, and in whole blocks forwards,")

    def test_every_byte_of_state_came_from_the_space(self) -> None:
        toy = a_network()
        run = Run(toy, self.plain, 5)
        with nothing_kept_aside(self.estimator):
            while run.step < 5:
                complaint = foreign(run.state, toy.space)
                assert not complaint, f"After {run.step} steps {complaint}"
                run.advance()
        hidden = vars(run.estimator).keys() - {field.name for field in fields(run.estimator)}  # type: ignore[arg-type]
        assert not hidden, f"The estimator keeps {sorted(hidden)} on itself; what `init` returns is the state."

    def test_state_survives_a_trip_through_json(self) -> None:
        """After 5 steps with its own rule, all its numbers finite."""
        run = Run(a_network(), self.own, 5)
        while run.step < 5:
            run.advance()
        json.dumps(through_json(run), allow_nan=False)

    def test_a_step_leaves_the_global_random_states_alone(self) -> None:
        with random_states_untouched():
            train(a_network(), self.own, steps=3)

    def test_it_runs_in_float32(self) -> None:
        """30 steps with its own rule."""
        self._runs_in("float32")

    def test_it_runs_in_float16(self) -> None:
        """And buffers are float32, and change as they do with float32 weights."""
        self._runs_in("float16")

    def test_it_runs_in_bfloat16(self) -> None:
        """And buffers are float32, and change as they do with float32 weights."""
        without("ml_dtypes", "numpy has no bfloat16")
        self._runs_in("bfloat16")

    def test_it_runs_on_arrays_of_torch_too(self) -> None:
        """Ten steps with its own rule, as on those of numpy."""
        runs_on_torch(self.own)

    def test_a_dry_run_counts_what_a_run_takes(self) -> None:
        """With its own rule: forward passes and passes over θ within 5 %, and the bytes of state of each block."""
        dry_run_agrees(self.own)

    def test_a_dry_run_counts_what_a_run_takes_in_its_other_forms_too(self) -> None:
        """The same for each other value of its switches and closed choices, one changed at a time."""
        for how, other in variations(self.own).items():
            dry_run_agrees(other, f"With {how}: ")

    def test_a_dry_run_counts_what_a_run_takes_with_a_rule_that_sweeps_too(self) -> None:
        """The same with a rule that makes its step by a sweep, so that θ is settled when the next step begins."""
        dry_run_agrees(changed(self.own, rule=Sweeping(lr=1e-6)))

    def test_it_asks_for_no_more_than_it_says(self) -> None:
        """In ten steps with its own rule, as `asks` says."""
        toy, queried = a_network(), set[str]()
        run = Run(toy, self.own, 10)
        while run.step < 10:
            oracle = RecordingOracle(toy, run.step, 10)
            run.advance(oracle)
            queried |= oracle.kinds
        undeclared = queried - self.estimator.asks
        assert not undeclared, f"In 10 steps it asked for {sorted(queried)}; `asks` says {sorted(self.estimator.asks)}."

    def test_the_loss_falls_on_a_quadratic(self) -> None:
        learns(a_quadratic().anew(grid=64), self.own)

    def test_the_loss_falls_on_a_network_of_two_layers(self) -> None:
        learns(a_network().anew(grid=64), self.own)

    def test_equal_losses_leave_theta_where_it_was(self) -> None:
        """With its own rule without decay: nothing is divided by how they differ."""
        self.skip_with_noise()
        toy = a_quadratic().anew(loss=lambda theta: 1.5, gradient=lambda theta: 0 * theta)
        start, rule = toy.theta, with_rate(self.own.rule, decay=0.0, optional=True)
        run = Run(toy, changed(self.own, rule=rule), 12)
        while run.step < 12:
            run.advance()
        all_finite(run)
        off = np.abs(toy.theta - start).max()
        assert off <= ROUNDING, f"All losses were 1.5, and 12 steps moved an entry of θ by {off:.3g}."

    def test_a_loss_that_is_not_finite_skips_the_step(self) -> None:
        """With its own rule: whichever answer it is, θ stays as it was, and the next steps are valid."""
        self.skip_with_noise()
        count = len(train(a_network(), self.own, 4)[3])
        for at in sorted({0, 1, count // 2, count - 1} & set(range(count))):
            self._skips(at, math.inf if at % 2 else math.nan)

    def _replays(self, estimator: Estimator[Any], steps: int) -> None:
        self.skip_with_gradients()
        first, second = a_network(dtype="float32"), a_network(dtype="float32")
        start, answers = first.theta, train(first, estimator, steps)
        train(second, estimator, steps, answers=answers)
        differ = int((first.theta != second.theta).sum())
        assert not differ, f"Given the same answers, {steps} steps led to {differ} other weights of {start.size}."
        if isinstance(estimator.rule, Plain):
            assert (first.theta != start).any(), f"{steps} steps changed nothing, so this replay tests nothing."

    def _agree(self, one: Toy, other: Toy, how: str) -> None:
        answers, others = train(one, self.plain, steps=20), train(other, self.plain, steps=20)
        assert [len(step) for step in answers] == [len(step) for step in others], f"Other losses were queried {how}."
        off = max(abs(a - b) for step in zip(answers, others, strict=True) for a, b in zip(*step, strict=True))
        assert off <= 1e-9, f"Answers {how} differ by {off:.3g} (float64)."
        off = np.abs(one.theta - other.theta).max()
        assert off <= 1e-9, f"Weights {how} differ by {off:.3g} (float64)."

    def _runs_in(self, dtype: str) -> None:
        run, shares = moved_shares(self.own, dtype)
        all_finite(run)
        for buffer, share, wide in zip(
            run.toy.space.buffers, shares, moved_shares(self.own, "float32")[1], strict=False
        ):
            kinds = {str(array.dtype) for array in buffer.arrays.values()} - {"float32", "uint8"}
            assert share >= wide / 2, (
                f"Weights in {dtype}: {share:.0%} of '{buffer.owner}' moved in 30 steps, {wide:.0%} beside float32 "
                f"weights."
            )
            assert not kinds, f"Weights in {dtype}: '{buffer.owner}' is kept in {', '.join(kinds)}, not in float32."

    def _skips(self, at: int, value: float) -> None:
        run = Run(a_network(), self.own, 8)
        while run.step < 3:
            run.advance()
        expected = run.toy.theta
        for _ in run.applied(faulty_oracle(run, at, value)):
            expected = run.toy.theta
        off = np.abs(run.toy.theta - expected).max()
        assert run.skipped, f"Answer {at} of step 3 was {value}, and the step was made all the same."
        assert off <= ROUNDING, f"Answer {at} of step 3 was {value}; the step was skipped, yet θ is off by {off:.3g}."
        all_finite(run)
        while run.step < 8:
            run.advance()
        all_finite(run)
