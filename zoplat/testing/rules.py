"""What every step rule promises, as tests to inherit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.core.direction import ZERO
from zoplat.core.errors import ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.rule import StepRule
from zoplat.testing.costs import dry_run_agrees
from zoplat.testing.kept import foreign, nothing_kept_aside
from zoplat.testing.measures import all_finite, learns, resumes_exactly
from zoplat.testing.parts import PartContract, random_states_untouched, variations, with_rate
from zoplat.testing.portable import runs_on_torch
from zoplat.testing.problems import a_network, a_quadratic, linear
from zoplat.testing.recording import in_words, unprobed_in_rule
from zoplat.testing.runs import Run
from zoplat.testing.toys import Toy
from zoplat.testing.under_test import ROUNDING
from zoplat.training.dry_run import mezo_with


class StepRuleContract(PartContract):
    """Inherit, and set `rule`; it is given the estimates of MeZO, drawn from a law that it accepts.

    Attributes:
        rule: the step rule, as it is registered.
    """

    rule: StepRule[Any]

    def part(self) -> StepRule[Any]:
        """The rule."""
        return self.rule

    def test_a_step_size_of_zero_leaves_theta_where_it_was(self) -> None:
        toy = linear()
        start = toy.theta
        _apply(with_rate(self.rule, lr=0.0), toy)
        off = np.abs(toy.theta - start).max()
        assert off <= ROUNDING, f"With lr=0 an entry of θ moved by {off:.3g}."

    def test_an_estimate_of_zero_leaves_theta_where_it_was(self) -> None:
        """Without decay, at a first step."""
        toy = linear()
        start = toy.theta
        _apply(with_rate(self.rule, decay=0.0, optional=True), toy, zero=True)
        off = np.abs(toy.theta - start).max()
        assert off <= ROUNDING, f"The estimate is 0, there is no decay, and an entry of θ moved by {off:.3g}."

    def test_every_entry_moves_by_the_step_size_or_not_at_all(self) -> None:
        """Where `moves_alike` says so, without decay; the estimate has Gaussian entries."""
        alike = [rule for rule in (self.rule, *_others(self.rule)) if rule.moves_alike]
        if not alike:
            raise SkipTest("It does not say that entries move alike.")
        for rule in alike:
            toy = linear()
            start, eta = toy.theta, _apply(with_rate(rule, lr=0.25, decay=0.0), toy)
            moved = np.abs(toy.theta - start)
            wrong = moved[(moved > ROUNDING) & (np.abs(moved - eta) > ROUNDING)]
            assert not wrong.size, (
                f"η is {eta:g}, and {wrong.size} of {moved.size} entries moved by something else: from "
                f"{wrong.min():.3g} to {wrong.max():.3g}. That is the sign of the slope, not of the entries."
            )

    def test_decay_shrinks_matrices_by_one_minus_eta_lambda_and_leaves_vectors(self) -> None:
        """η = ¼, λ = ½, and an estimate of 0: decay does not depend on one."""
        toy = linear()
        starts = {name: array.copy() for name, array in toy.arrays.items()}
        eta = _apply(with_rate(self.rule, lr=0.25, decay=0.5), toy, zero=True)
        toy.space.settle()
        for block in toy.blocks:
            array, start = toy.arrays[block.name], starts[block.name]
            factor = 1 - eta * 0.5 if len(block.shape) == 2 else 1.0
            off = np.abs(array - factor * start).max()
            assert off <= ROUNDING, (
                f"'{block.name}', shape {block.shape}, should be {factor:.6g} times what it was; "
                f"its first entry went from {start.flat[0]:.9g} to {array.flat[0]:.9g}."
            )

    def test_decay_goes_by_what_a_block_is_and_not_by_its_name(self) -> None:
        """A matrix may be called "…norm.bias" and a vector "…weight"."""
        usual = linear({"mlp.weight": (4, 5), "norm.bias": (20,)})
        renamed = usual.anew(shapes={"norm.bias": (4, 5), "mlp.weight": (20,)})
        for toy in (usual, renamed):
            _apply(with_rate(self.rule, lr=0.25, decay=0.5), toy, zero=True)
        off = np.abs(usual.theta - renamed.theta)
        assert off.max() <= ROUNDING, (
            f"A matrix and a vector decay otherwise when they swap names: {int((off > ROUNDING).sum())} of "
            f"{off.size} entries differ, by up to {off.max():.3g}."
        )

    def test_it_moves_along_nothing_that_was_never_probed(self) -> None:
        """In 60 steps, the random numbers that it uses were all in a query of that step or of an earlier one."""
        for step, unprobed, count in unprobed_in_rule(_host(self.rule), linear(), 60):
            assert not unprobed, (
                f"Step {step}: {len(unprobed)} of the {count} streams of random numbers that the rule used are in no "
                f"query so far, such as {in_words(unprobed[0])}."
            )

    def test_equal_losses_leave_theta_where_it_was(self) -> None:
        """Without decay: nothing is divided by how they differ, and no number becomes NaN."""
        toy = a_quadratic().anew(loss=lambda theta: 1.5)
        start, run = toy.theta, Run(toy, _host(with_rate(self.rule, decay=0.0, optional=True)), 12)
        for _ in range(12):
            run.advance()
        all_finite(run)
        off = np.abs(toy.theta - start).max()
        assert off <= ROUNDING, f"All losses were 1.5, and 12 steps moved an entry of θ by {off:.3g}."

    def test_the_loss_falls_on_a_quadratic(self) -> None:
        learns(a_quadratic().anew(grid=64), _host(self.rule))

    def test_every_byte_of_state_came_from_the_space(self) -> None:
        toy = a_network()
        run = Run(toy, _host(self.rule), 5)
        with nothing_kept_aside(self.rule):
            while run.step < 5:
                complaint = foreign(run.rule_state, toy.space)
                assert not complaint, f"After {run.step} steps {complaint}"
                run.advance()

    def test_a_run_that_was_stopped_goes_on_to_the_same_bits(self) -> None:
        """Weights, buffers and the states as JSON at step 7 are all that it needs."""
        resumes_exactly(_host(self.rule))

    def test_it_runs_on_arrays_of_torch_too(self) -> None:
        """Ten steps, as on those of numpy."""
        runs_on_torch(_host(self.rule))

    def test_a_dry_run_counts_what_a_run_takes(self) -> None:
        """With MeZO: forward passes and passes over θ within 5 %, and the bytes of state of each block."""
        dry_run_agrees(_host(self.rule))

    def test_a_dry_run_counts_what_a_run_takes_in_its_other_forms_too(self) -> None:
        """The same for each other value of its switches and closed choices, one changed at a time."""
        for how, other in variations(self.rule).items():
            dry_run_agrees(_host(other), f"With {how}: ")

    def test_applying_leaves_the_global_random_states_alone(self) -> None:
        with random_states_untouched():
            _apply(self.rule, linear())


def _others(rule: StepRule[Any]) -> list[StepRule[Any]]:
    """Its other forms, if it has some."""
    try:
        return list(variations(rule).values())
    except SkipTest:
        return []


def _apply(rule: StepRule[Any], toy: Toy, zero: bool = False) -> float:
    """One step with an estimate of MeZO, or with 0 in its place; the step size is returned."""
    oracle, host = toy.oracle(step=300), _host(rule)
    state = rule.init_for(toy.space, host.law)
    for estimate in host.estimate(oracle, None):
        rule.apply(replace(estimate, direction=ZERO) if zero else estimate, oracle, state)
    return rule.rate(oracle) or 0.0


def _host(rule: StepRule[Any]) -> Estimator[Any]:
    """MeZO with this rule, and with the first law that the rule does not refuse."""
    try:
        return mezo_with(rule)
    except ZoplatError as refusal:
        raise SkipTest(str(refusal)) from None
