"""What every step rule promises, as tests to inherit."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.core.direction import ZERO
from zoplat.core.errors import ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.rule import StepRule
from zoplat.registry import catalogue
from zoplat.testing.measures import all_finite, bill, goes_on_after_a_stop, learns
from zoplat.testing.overheard import in_words, strangers_in_rule
from zoplat.testing.parts import PartContract, changed, foreign, random_states_untouched, variations, with_rate
from zoplat.testing.toys import Run, Toy, linear
from zoplat.testing.tried import ROUNDING, a_network, a_quadratic


class StepRuleContract(PartContract):
    """Inherit, and set `rule`; it is given the estimates of MeZO, drawn from a law that it takes.

    Attributes:
        rule: the step rule, as it is registered.
    """

    rule: StepRule

    def part(self) -> StepRule:
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
        """η = ¼, λ = ½, and an estimate of 0: decay does not wait for one."""
        toy = linear()
        starts = [block.array.copy() for block in toy.blocks]
        eta = _apply(with_rate(self.rule, lr=0.25, decay=0.5), toy, zero=True)
        toy.space.settle()
        for block, start in zip(toy.blocks, starts, strict=True):
            factor = 1 - eta * 0.5 if len(block.shape) == 2 else 1.0
            off = np.abs(block.array - factor * start).max()
            assert off <= ROUNDING, (
                f"'{block.name}', shape {block.shape}, should be {factor:.6g} times what it was; "
                f"its first entry went from {start.flat[0]:.9g} to {block.array.flat[0]:.9g}."
            )

    def test_decay_goes_by_what_a_block_is_and_not_by_its_name(self) -> None:
        """A matrix may be called "…norm.bias" and a vector "…weight"."""
        usual = linear({"mlp.weight": (4, 5), "norm.bias": (20,)})
        renamed = usual.anew(shapes={"norm.bias": (4, 5), "mlp.weight": (20,)})
        for toy in (usual, renamed):
            _apply(with_rate(self.rule, lr=0.25, decay=0.5), toy, zero=True)
        apart = np.abs(usual.theta - renamed.theta)
        assert apart.max() <= ROUNDING, (
            f"A matrix and a vector decay otherwise when they swap names: {int((apart > ROUNDING).sum())} of "
            f"{apart.size} entries differ, by up to {apart.max():.3g}."
        )

    def test_it_moves_along_nothing_that_was_never_probed(self) -> None:
        """In 60 steps, the random numbers that it uses were all in a question of that step or of one before."""
        for step, strangers, count in strangers_in_rule(_host(self.rule), linear(), 60):
            assert not strangers, (
                f"Step {step}: {len(strangers)} of the {count} runs of random numbers that the rule used were in no "
                f"question so far, such as {in_words(strangers[0])}."
            )

    def test_equal_losses_leave_theta_where_it_was(self) -> None:
        """Without decay: nothing is divided by how they differ, and no number stops being one."""
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
        while run.step < 5:
            complaint = foreign(run.rule_state, toy.space)
            assert not complaint, f"After {run.step} steps {complaint}"
            run.advance()

    def test_a_run_that_was_stopped_goes_on_to_the_same_bits(self) -> None:
        """Weights, buffers and packed states at step 7 are all that it needs."""
        goes_on_after_a_stop(_host(self.rule))

    def test_it_takes_the_forward_passes_that_it_declares(self) -> None:
        _beyond_mezo(self.rule, "passes")

    def test_it_takes_the_passes_over_theta_that_it_declares(self) -> None:
        _beyond_mezo(self.rule, "moves")

    def test_it_keeps_the_bytes_that_it_declares(self) -> None:
        bill(_host(self.rule)).check_bytes()

    def test_it_takes_what_it_declares_in_its_other_forms_too(self) -> None:
        """The three above for each other value of its switches and closed choices, one changed at a time."""
        for how, other in variations(self.rule).items():
            _beyond_mezo(other, "passes", f"With {how}: ")
            _beyond_mezo(other, "moves", f"With {how}: ")
            bill(_host(other)).check_bytes(f"With {how}: ")

    def test_applying_leaves_the_global_random_states_alone(self) -> None:
        with random_states_untouched():
            _apply(self.rule, linear())


def _beyond_mezo(rule: StepRule, what: str, how: str = "") -> None:
    """Checks what a rule adds to MeZO's "passes" or "moves"."""
    count, asked = getattr(bill(_host(rule)), what), getattr(_host(rule).cost(), what)
    replace(count, declared=count.declared - asked, measured=count.measured - asked).check(how)


def _others(rule: StepRule) -> list[StepRule]:
    """Its other forms, if it has some."""
    try:
        return list(variations(rule).values())
    except SkipTest:
        return []


def _apply(rule: StepRule, toy: Toy, zero: bool = False) -> float:
    """One step with an estimate of MeZO, or with 0 in its place; the step size is returned."""
    oracle = toy.oracle(step=300)
    state = rule.init_for(toy.space, _host(rule).law)
    for estimate in _host(rule).estimate(oracle, None):
        rule.apply(replace(estimate, direction=ZERO) if zero else estimate, oracle, state)
    return rule.rate(oracle) or 0.0


@lru_cache(maxsize=64)
def _host(rule: StepRule) -> Estimator:
    """MeZO with this rule, and with the first law that the rule does not refuse."""
    known, refusal = catalogue(), ""
    for name in ("gaussian", *known.names("sampler")):
        host: Any = changed(
            known.entry("estimator", "mezo").value, rule=rule, sampler=known.entry("sampler", name).value
        )
        try:
            Run(linear(), host, 1).advance()
        except ZoplatError as problem:
            refusal = refusal or str(problem)
        else:
            return host  # type: ignore[no-any-return]
    raise SkipTest(f"It takes the estimates of MeZO with no law that is registered: {refusal}")
