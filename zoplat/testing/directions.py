"""An estimator applies what it probed, and restores θ after each probe."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.config.parts import law_of
from zoplat.core.estimator import Estimator
from zoplat.testing.measures import mean_is
from zoplat.testing.noise import Vector
from zoplat.testing.parts import density_of, variations
from zoplat.testing.problems import a_quadratic, like_a_model, linear, quadratic
from zoplat.testing.recording import RecordedEstimate, RecordingOracle, in_words, record_estimates
from zoplat.testing.runs import Run, train
from zoplat.testing.toys import Toy
from zoplat.testing.under_test import ROUNDING, EstimatorUnderTest

STEPS = 60
"""Steps on a linear loss: more than an interval of 50, after which methods renew things."""
FLAT = 0.1
"""How steep the loss is, beside the usual one, on which slopes are looked at that are clipped where they are large."""


class Directions(EstimatorUnderTest):
    """The part of an estimator's contract that is about vectors."""

    def test_what_is_applied_was_asked_about_in_the_same_step(self) -> None:
        """The estimate's random numbers are in a query of its step, and so is every entry that it moves.

        Or in one of an earlier step, where there is state that can have kept them; or in a buffer.
        """
        self._was_probed(self.plain)

    def test_what_is_applied_was_asked_about_with_three_directions_too(self) -> None:
        """The same with queries=3."""
        self._was_probed(self.with_three)

    def test_what_is_applied_was_asked_about_in_its_other_forms_too(self) -> None:
        """The same for each other value of its switches and closed choices, one changed at a time."""
        for how, other in variations(self.plain).items():
            self._was_probed(other, f"With {how}: ")

    def test_a_constant_step_moves_a_linear_loss_as_far_as_the_estimate_says(self) -> None:
        """By h·⟨a, ĝ⟩ on every step, where the loss is ⟨a, θ⟩."""
        for one in _recorded(self.plain):
            expected = one.rate * float(_slope() @ one.estimate.values)
            fell = one.before - one.after
            assert abs(fell - expected) <= 1e-6 * abs(expected) + 1e-10, (
                f"Step {one.step}: the loss fell by {fell:.9g}, but h·⟨a, ĝ⟩ is {expected:.9g}. "
                "The same vector gave other numbers when it was applied."
            )

    def test_the_estimate_holds_the_slopes_that_the_answers_show(self) -> None:
        """On a linear loss it is each direction times the slope along it, averaged over the directions."""
        self._holds_the_slopes(self.plain)

    def test_the_estimate_holds_the_slopes_with_three_directions_too(self) -> None:
        """The same with queries=3."""
        self._holds_the_slopes(self.with_three)

    def test_a_mask_is_on_the_probe_and_on_the_step_alike(self) -> None:
        """Where the estimate is a sum of the probed directions, it is one on every entry; with queries=3 too.

        Whether or not a bias is declared.
        """
        forms = [("", self.plain)]
        with suppress(SkipTest):
            forms.append(("With queries=3: ", self.with_three))
        for how, estimator in forms:
            for one in _recorded(estimator):
                assert not one.masked, (
                    f"{how}Step {one.step}: the estimate is a sum of the probed directions on "
                    f"the {np.count_nonzero(one.estimate.values)} entries that it moves, and leaves out {one.masked} "
                    "others that the probes moved: a mask is on the step and not on the probe."
                )

    def test_the_mean_of_the_estimates_is_the_gradient(self) -> None:
        """On a quadratic, times the variance of the law, over 400 seeds; within five standard errors."""
        self.skip_with_bias()
        toy = like_a_model(quadratic({"weight": (3, 4), "bias": (5,)})).anew(grid=64)
        law, found = law_of(self.estimator), first_estimates(toy, self.own, seeds=400)
        gradient, at = toy.slopes, 0
        for block in toy.blocks:
            there = slice(at, at := at + block.size)
            expected = gradient[there] * (law.variance(block.shape) if law else 1.0)
            along = found[:, there] @ gradient[there] / (expected @ gradient[there])
            mean_is(1.0, along, f"The share of its gradient that '{block.name}' has")
            for i, entry in enumerate(expected):
                mean_is(float(entry), found[:, there][:, i], f"Entry {i} of the estimate on '{block.name}'")

    def test_the_share_of_the_weights_that_it_moves_is_its_density(self) -> None:
        """Within five standard errors of as many independent choices, and an entry for each block."""
        density, toy = density_of(self.estimator), a_quadratic().anew(grid=64)
        moved = first_estimates(toy, self.own, seeds=20) != 0
        spread = 5 * math.sqrt(density * (1 - density) / moved.size) + len(toy.blocks) / moved.shape[1]
        assert abs(moved.mean() - density) <= spread, (
            f"density is {density:g}, and {moved.mean():.4g} of {moved.size} entries moved; "
            f"{density:g} ± {spread:.2g} is expected."
        )

    def test_blocks_outside_of_a_part_keep_every_bit(self) -> None:
        """Where all draws are zero outside of it."""
        self.skip_with_gradients()
        toy = like_a_model(linear(dtype="float32"))
        part = toy.space.part(lambda block: block.layer == 0)
        start = {name: array.tobytes() for name, array in toy.arrays.items()}
        run = Run(toy, self.plain, 10)
        while run.step < 10:
            run.advance(RecordingOracle(toy, run.step, 10, part))
        toy.space.settle()
        moved = {name for name, array in toy.arrays.items() if array.tobytes() != start[name]}
        outside = sorted(moved - part.names)
        assert not outside, (
            f"All directions were zero outside of {sorted(part.names)}, and 10 steps moved {len(outside)} other "
            f"blocks: {outside}."
        )
        assert moved, "10 steps moved nothing, so nothing is tested here."

    def test_a_step_of_size_zero_leaves_theta_where_it_was(self) -> None:
        toy = a_quadratic()
        start = toy.theta
        train(toy, self.stepping(0.0), steps=20)
        off = np.abs(toy.theta - start).max()
        assert off <= ROUNDING, f"After 20 steps of size 0 an entry of θ is off by {off:.3g} (float64, in place)."

    def test_a_step_of_size_zero_leaves_every_bit_with_exact_restore(self) -> None:
        toy = a_quadratic(dtype="float32", restore="exact")
        start = toy.theta
        train(toy, self.stepping(0.0), steps=20)
        differ = int((toy.theta != start).sum())
        assert not differ, (
            f"restore='exact', 20 steps of size 0, and yet {differ} of {start.size} entries have changed."
        )

    def test_probes_are_taken_back_within_a_few_roundings(self) -> None:
        """In float32 and float16, a step: by 4 units in the last place of |w| + 2ε|z|, or 1 for each point."""
        for dtype in ("float32", "float16"):
            toy = a_quadratic(dtype=dtype)
            run = Run(toy, self.stepping(0.0), 10)
            while run.step < 10:
                before, oracle = toy.theta, RecordingOracle(toy, run.step, 10)
                run.advance(oracle)
                points = [query.direction.values for query in oracle.queries if query.kind == "loss"]
                reach = np.abs(before) + 2 * np.max(np.abs([0 * before, *points]), axis=0)
                ulps = (np.abs(toy.theta - before) / np.spacing(reach.astype(dtype)).astype(float)).max()
                most = max(4, len(points))
                assert ulps <= most, (
                    f"Step {run.step - 1} of size 0 in {dtype}: an entry is off by {ulps:.3g} units in the last place; "
                    f"{len(points)} probes taken back cost {most} at most."
                )

    def _was_probed(self, estimator: Estimator[Any], how: str = "") -> None:
        for one in _recorded(estimator):
            numbers, entries = one.unprobed_numbers, int(one.unprobed_entries.sum())
            assert not numbers, (
                f"{how}Step {one.step}: the estimate contains vectors that were never probed. {len(numbers)} of the "
                f"{len(one.estimate.addresses)} streams of random numbers in it are in no query of this step, "
                f"such as {in_words(numbers[0])}."
            )
            assert not entries, (
                f"{how}Step {one.step}: the estimate moves {np.count_nonzero(one.estimate.values)} entries, and "
                f"{entries} of them were perturbed by none of the probes."
            )

    def _holds_the_slopes(self, estimator: Estimator[Any]) -> None:
        if self.estimator.bias:
            self._has_no_common_factor(estimator)
            return
        by_estimate = {one: one.shares(_slope()) for one in _recorded(estimator)}
        shares = [(one.step, share) for one, each in by_estimate.items() for share in each]
        other = [one.step for one, each in by_estimate.items() if not each and one.estimate.values.any()]
        if len(other) > len(by_estimate) / 10:
            raise SkipTest("Its estimates are not sums of this step's directions times slopes that its answers show.")
        assert not other, (
            f"Step {other[0]}: the estimate is no sum of the directions that were probed, as it is on "
            f"{len(by_estimate) - len(other)} of {len(by_estimate)} steps."
        )
        values = [share for _, share in shares]
        if not (_is_one(statistics.median(values)) or max(values) - min(values) < 1e-4):
            mean_is(1.0, values, "The share of the slopes that the estimate has")
            return
        for step, share in shares:
            assert _is_one(share), (
                f"Step {step}: along a vector that was probed, the estimate holds {share:.4g} times the slope that the "
                "answers show."
            )

    def _has_no_common_factor(self, estimator: Estimator[Any]) -> None:
        """With a bias shares may differ; but a share that many steps have in common is 1, as where nothing is clipped.

        The loss is flat, so that what is clipped on a steep one is not.
        """
        shares = [share for one in _recorded(estimator, FLAT) for share in one.shares(FLAT * _slope())]
        near = [sum(abs(share - other) <= 1e-4 * abs(share) for other in shares) for share in shares]
        often = max(near, default=0)
        if often < max(6, len(shares) / 4):
            raise SkipTest(f"It declares a bias, and its steps have no share in common: {self.estimator.bias}.")
        common = shares[near.index(often)]
        assert _is_one(common), (
            f"It declares a bias ({self.estimator.bias}), and {often} of {len(shares)} times the estimate holds "
            f"{common:.4g} times the slope that the answers show, along a vector that was probed. A factor that is "
            "meant belongs into the step size of the rule."
        )


def first_estimates(toy: Toy, estimator: Estimator[Any], seeds: int) -> Vector:
    """For each seed the estimate of the first step that has one, θ staying where it is; one row each."""
    rows = []
    for seed in range(seeds):
        toy.space.buffers.clear()
        state, estimates = estimator.init(toy.space), list[Vector]()
        for step in range(3):
            oracle = toy.oracle(step, seed=seed)
            estimates = [toy.entries(estimate.direction) for estimate in estimator.estimate(oracle, state)]
            if estimates:
                break
        assert estimates, "Three steps made no estimate."
        rows.append(np.sum(estimates, axis=0))
    toy.space.settle()
    return np.array(rows)


@lru_cache(maxsize=3)
def _recorded(estimator: Estimator[Any], steepness: float = 1.0) -> Sequence[RecordedEstimate]:
    toy = like_a_model(linear()).anew(grid=64)
    if steepness != 1.0:
        slope = steepness * _slope()
        toy = toy.anew(loss=lambda theta: float(slope @ theta) + 1.5, gradient=lambda theta: slope)
    return record_estimates(estimator, toy, STEPS)


def _slope() -> Vector:
    return linear().slopes


def _is_one(share: float) -> bool:
    return abs(share - 1) < 1e-4
