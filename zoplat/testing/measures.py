"""What the contracts measure: means, resumed runs, answers that are not finite, learning."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import SkipTest

import numpy as np
import numpy.typing as npt

from zoplat.core.blocks import Buffer, Part
from zoplat.core.direction import Direction
from zoplat.core.estimator import Estimator
from zoplat.core.input_directions import LossAndRows
from zoplat.core.losses import LossBackend
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.core.rule import StepRule
from zoplat.space.parameter_space import ParameterSpace
from zoplat.testing.kept import foreign
from zoplat.testing.parts import changed, with_rate
from zoplat.testing.problems import a_network
from zoplat.testing.runs import Plain, Run
from zoplat.testing.toys import Toy, ToyLosses
from zoplat.training.states import state_from_json, state_to_json

RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Step sizes at one of which an estimator must learn. Runs whose loss grows tenfold are broken off."""


def mean_is(expected: float, samples: npt.ArrayLike, what: str) -> None:
    """Fails where the mean of samples is more than five standard errors from what is expected."""
    values = np.asarray(samples, np.float64)
    mean, bound = float(values.mean()), 5 * float(values.std()) / math.sqrt(values.size) + 1e-5
    assert abs(mean - expected) <= bound, (
        f"{what} is {mean:.4g} on average over {values.size}; {expected:.4g} ± {bound:.2g} is expected."
    )


def through_json(run: Run) -> list[Any]:
    """The states of a run as read back from a checkpoint's JSON; fails where it can't hold them."""
    complaint = foreign(run.state, run.toy.space) or foreign(run.rule_state, run.toy.space)
    assert not complaint, complaint
    found: list[Any] = json.loads(
        json.dumps([state_to_json(state, run.toy.space) for state in (run.state, run.rule_state)])
    )
    return found


def resumes_exactly(estimator: Estimator[Any]) -> None:
    """Fails where a run that was saved at step 7 and resumed comes to other weights or states at step 16."""
    whole, first = (Run(a_network(dtype="float32"), estimator, 16) for _ in range(2))
    for run in (whole, first):
        for _ in range(7):
            run.advance()
        run.toy.space.settle()
    second = _resumed(first)
    for run in (whole, second):
        while run.step < run.steps:
            run.advance()
        run.toy.space.settle()
    differ = int((whole.toy.theta != second.toy.theta).sum())
    assert not differ, f"Saved at step 7 and resumed, a run came to {differ} other weights at step 16."
    assert through_json(whole) == through_json(second), (
        f"States at step 16 are {through_json(whole)} and {through_json(second)}."
    )
    for one, other in zip(whole.toy.space.buffers, second.toy.space.buffers, strict=True):
        differ = sum(int((array != other.arrays[name]).sum()) for name, array in one.arrays.items())
        assert not differ, f"Saved at step 7 and resumed, {differ} entries of '{one.owner}' differ at step 16."


def _resumed(run: Run) -> Run:
    """A new run with all that a checkpoint of another holds, and nothing else of it."""
    fresh = Run(run.toy.anew(), run.estimator, run.steps)
    old, new = run.toy.space, fresh.toy.space
    fresh.step = run.step
    assert len(old.buffers) == len(new.buffers), (
        f"`init` makes {len(new.buffers)} buffers, and after {run.step} steps there are {len(old.buffers)}: what a "
        "run keeps is made in `init`."
    )
    for one, other in zip(old.buffers, new.buffers, strict=True):
        for name, array in one.arrays.items():
            other.arrays[name][:] = array
    for block, copy in zip(run.toy.blocks, fresh.toy.blocks, strict=True):
        copy.array[:] = block.array
    new.reset()
    state, rule_state = through_json(run)
    state_from_json(fresh.state, state, new)  # in place, as a checkpoint does
    state_from_json(fresh.rule_state, rule_state, new)
    return fresh


def moved_shares(estimator: Estimator[Any], dtype: str) -> tuple[Run, list[float]]:
    """A run of 30 steps with weights of this type, and the share of each buffer's entries that moved in it."""
    run = Run(a_network(dtype=dtype), estimator, 30)
    starts = [{name: array.copy() for name, array in _arrays(buffer)} for buffer in run.toy.space.buffers]
    while run.step < 30:
        run.advance()
    shares = []
    for buffer, start in zip(run.toy.space.buffers, starts, strict=False):
        changes = [array != start[name] for name, array in _arrays(buffer)]
        shares.append(sum(map(np.count_nonzero, changes)) / max(1, sum(map(np.size, changes))))
    return run, shares


def all_finite(run: Run) -> None:
    """Fails where θ, the loss or a number of state is not finite."""
    theta = run.toy.theta
    bad = int((~np.isfinite(theta)).sum())
    assert not bad, f"After step {run.step - 1}, {bad} entries of θ are not finite."
    assert math.isfinite(run.toy.loss(theta)), f"After step {run.step - 1} the loss is {run.toy.loss(theta)}."
    for buffer in run.toy.space.buffers:
        bad = sum(int((~np.isfinite(array.astype(np.float64))).sum()) for _, array in _arrays(buffer))
        assert not bad, f"After step {run.step - 1}, {bad} entries of '{buffer.owner}' are not finite."
    if not (foreign(run.state, run.toy.space) or foreign(run.rule_state, run.toy.space)):
        state = json.dumps(through_json(run))
        assert not any(word in state for word in ("NaN", "Infinity")), f"State is not finite: {state}."


class FaultyLosses(LossBackend):
    """A toy's answers, one of which is replaced.

    Args:
        toy: computes the others.
        at: index of the answer among the losses and slopes of the step, from 0.
        value: that takes its place.
    """

    def __init__(self, toy: Toy, at: int, value: float) -> None:
        self._losses, self.strategy = ToyLosses(toy), toy.strategy
        self._at, self._value, self._count = at, value, 0

    def forward(self) -> float:
        return self._next(self._losses.forward())

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        return [self._next(answer) for answer in self._losses.losses_at(directions)]

    def jvp(self, direction: Direction) -> tuple[float, float]:
        loss, slope = self._losses.jvp(direction)
        return self._next(loss), self._next(slope)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        loss, gradient = self._losses.gradient(part, recompute)
        return self._next(loss), gradient

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        return self._losses.input_norms(space)

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        loss, found = self._losses.input_directions(space, rank, rounds)
        return self._next(loss), {name: [[*map(self._next, row)] for row in rows] for name, rows in found.items()}

    def row_count(self) -> float:
        return self._next(self._losses.row_count())

    def row_losses(self, rows: Sequence[int]) -> list[float]:
        return [self._next(answer) for answer in self._losses.row_losses(rows)]

    def row_losses_at(self, points: Sequence[Sequence[Direction]]) -> list[list[float]]:
        return [[self._next(answer) for answer in point] for point in self._losses.row_losses_at(points)]

    def secret_normals(self, n: int) -> list[float]:
        return [self._next(answer) for answer in self._losses.secret_normals(n)]

    def on_batch(self, index: int) -> LossBackend:
        return self

    def _next(self, answer: float) -> float:
        self._count += 1
        return self._value if self._count == self._at + 1 else answer


def faulty_oracle(run: Run, at: int, value: float) -> Oracle:
    """The oracle of a run's next step, with one answer replaced."""
    return Oracle(run.toy.space, Key(run.seed, run.step, 0), run.step / run.steps, FaultyLosses(run.toy, at, value))


def _arrays(buffer: Buffer) -> list[tuple[str, Any]]:
    """The numpy arrays of a toy's buffer, with the names of their blocks."""
    return list(buffer.arrays.items())


def learns(toy: Toy, estimator: Estimator[Any]) -> None:
    """Fails unless the loss falls by 3 % from three seeds, at one step size of many."""
    before, after = toy.loss(toy.theta), dict[str, float]()
    for name, rule in _rules(estimator.rule):
        stepping = changed(estimator, rule=rule)
        for seed in range(3):
            after[name] = _loss_after(toy, stepping, seed)
            if not after[name] < 0.97 * before:
                break
        else:
            return
    best = min(after, key=lambda name: after[name])
    raise AssertionError(
        f"In 200 steps the loss went from {before:.4g} to {after[best]:.4g} at best ({best}); at one step size it "
        "should fall by 3 % from each of three seeds. Found: "
        f"{', '.join(f'{name}: {loss:.4g}' for name, loss in after.items())}."
    )


def _loss_after(toy: Toy, estimator: Estimator[Any], seed: int) -> float:
    """The loss after 200 steps, or sooner where it is half of what it was or ten times as much."""
    run, start = Run(toy.anew(), estimator, 200, seed), toy.loss(toy.theta)
    loss = start
    with np.errstate(all="ignore"):
        while run.step < run.steps and start / 2 <= loss < 10 * start:
            for _ in range(25):
                run.advance()
            loss = run.toy.loss(run.toy.theta)
    return loss if math.isfinite(loss) else math.inf


def _rules(own: StepRule[Any]) -> Iterator[tuple[str, StepRule[Any]]]:
    """The rule itself and the plain one, at various step sizes."""
    for lr in RATES:
        try:
            yield f"own rule, lr {lr:g}", with_rate(own, lr=lr)
        except SkipTest:
            break
    for lr in RATES:
        yield f"plain rule, lr {lr:g}", Plain(lr=lr)
