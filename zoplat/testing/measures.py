"""What the contracts measure: counts, means, runs that were stopped, answers that are not finite, learning."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any
from unittest import SkipTest

import numpy as np
import numpy.typing as npt

from zoplat.core.blocks import Part
from zoplat.core.direction import Direction
from zoplat.core.estimator import Estimator
from zoplat.core.losses import LossBackend
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.core.rule import StepRule
from zoplat.space.parameter_space import ParameterSpace
from zoplat.testing.parts import changed, foreign, with_rate
from zoplat.testing.toys import Asked, Plain, Run, Toy
from zoplat.testing.tried import a_network
from zoplat.training.states import state_from_json, state_to_json

STEPS, LONGEST = 40, 500
"""Steps over which costs are counted, at least; the longest period that is waited for."""

RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Step sizes at one of which an estimator must learn. One that is too large is found out soon."""


def mean_is(expected: float, samples: npt.ArrayLike, what: str) -> None:
    """Fails where the mean of samples is more than five standard errors from what is expected."""
    values = np.asarray(samples, np.float64)
    mean, bound = float(values.mean()), 5 * float(values.std()) / math.sqrt(values.size) + 1e-5
    assert abs(mean - expected) <= bound, (
        f"{what} is {mean:.4g} on average over {values.size}; {expected:.4g} ± {bound:.2g} is expected."
    )


@dataclass(frozen=True)
class Count:
    """Something that a part declares, and what it came to.

    Attributes:
        what: in words.
        declared, measured: for each step.
        steps: over which it was measured.
    """

    what: str
    declared: float
    measured: float
    steps: int

    def check(self, how: str = "") -> None:
        """Fails where the two differ by more than a twentieth."""
        assert math.isclose(self.declared, self.measured, rel_tol=0.05, abs_tol=1e-9), (
            f"{how}It declares {self.declared:.4g} {self.what} a step; {self.measured:.4g} were counted over "
            f"{self.steps} steps."
        )


@dataclass(frozen=True)
class Kept:
    """What is kept for one block.

    Attributes:
        block, shape: which.
        declared, measured: bytes.
    """

    block: str
    shape: tuple[int, ...]
    declared: float
    measured: float


@dataclass(frozen=True)
class Bill:
    """What a run took, beside what was declared for it.

    Attributes:
        passes, moves: forward passes, and passes over θ.
        kept: for each block.
    """

    passes: Count
    moves: Count
    kept: tuple[Kept, ...]

    def check(self, how: str = "") -> None:
        """Fails where anything is not as declared."""
        self.passes.check(how)
        self.moves.check(how)
        self.check_bytes(how)

    def check_bytes(self, how: str = "") -> None:
        """Fails where a block's state takes other bytes than declared; none at all is right for a block left out."""
        for kept in self.kept:
            assert kept.measured in (kept.declared, 0), (
                f"{how}It declares {kept.declared:g} bytes for a block of shape {kept.shape}, such as '{kept.block}', "
                f"and keeps {kept.measured:g}."
            )
        declared = sum(kept.declared for kept in self.kept)
        assert not declared or any(kept.measured for kept in self.kept), (
            f"{how}It declares {declared:g} bytes of state for {len(self.kept)} blocks, and keeps none."
        )


@lru_cache(maxsize=64)
def bill(estimator: Estimator) -> Bill:
    """A run of whole periods with the estimator's own rule, after one period that is not counted."""
    toy = a_network(dtype="float32").anew(grid=64)
    space, period = toy.space, min(_period(estimator), LONGEST)
    steps = period * math.ceil(STEPS / period)
    run = Run(toy, estimator, period + steps)
    for _ in range(period):
        run.advance()
    start = space.passes_over_weights
    passes = sum(run.advance().passes for _ in range(steps))
    moves = space.passes_over_weights - start
    cost = estimator.cost() + estimator.rule.cost()
    declared = cost.counts(space)
    return Bill(
        Count("forward passes", declared[0], passes / steps, steps),
        Count("passes over θ", declared[1], moves / steps, steps),
        tuple(Kept(b.name, b.shape, cost.state(b.shape), _bytes(space, b.name)) for b in toy.blocks),
    )


def _period(estimator: Estimator) -> int:
    """Steps after which a periodic method comes round again: a common multiple of all its whole numbers."""
    period = 1
    for field in fields(estimator):  # type: ignore[arg-type]
        value = getattr(estimator, field.name)
        if isinstance(value, Estimator):
            period = math.lcm(period, _period(value))
        elif type(value) is int and value > 0:
            period = math.lcm(period, value)
    return period


def _bytes(space: ParameterSpace, block: str) -> int:
    buffers = [buffer for buffer in space.buffers if not buffer.is_mapped]
    return sum(int(buffer.arrays[block].nbytes) for buffer in buffers if block in buffer.arrays)


def packed(run: Run) -> list[Any]:
    """The states of a run as they come back from a checkpoint's JSON; fails where it can't hold them."""
    complaint = foreign(run.state, run.toy.space) or foreign(run.rule_state, run.toy.space)
    assert not complaint, complaint
    found: list[Any] = json.loads(
        json.dumps([state_to_json(state, run.toy.space) for state in (run.state, run.rule_state)])
    )
    return found


def goes_on_after_a_stop(estimator: Estimator) -> None:
    """Fails where a run that was saved at step 7 and begun again comes to other weights or states at step 16."""
    whole, first = (Run(a_network(dtype="float32"), estimator, 16) for _ in range(2))
    for run in (whole, first):
        for _ in range(7):
            run.advance()
        run.toy.space.settle()
    second = _reborn(first)
    for run in (whole, second):
        while run.step < run.steps:
            run.advance()
        run.toy.space.settle()
    differ = int((whole.toy.theta != second.toy.theta).sum())
    assert not differ, f"Saved at step 7 and begun again, a run came to {differ} other weights at step 16."
    assert packed(whole) == packed(second), f"States at step 16 are {packed(whole)} and {packed(second)}."
    for one, other in zip(whole.toy.space.buffers, second.toy.space.buffers, strict=True):
        differ = sum(int((array != other.arrays[name]).sum()) for name, array in one.arrays.items())
        assert not differ, f"Saved at step 7 and begun again, {differ} entries of '{one.owner}' differ at step 16."


def _reborn(run: Run) -> Run:
    """A run with all that a checkpoint of another holds, and nothing else of it."""
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
    state, rule_state = packed(run)
    fresh.state = state_from_json(fresh.state, state, new)
    fresh.rule_state = state_from_json(fresh.rule_state, rule_state, new)
    return fresh


def moved(estimator: Estimator, dtype: str) -> tuple[Run, list[float]]:
    """A run of 30 steps with weights of this type, and the share of each buffer's entries that moved in it."""
    run = Run(a_network(dtype=dtype), estimator, 30)
    starts = [{name: array.copy() for name, array in buffer.arrays.items()} for buffer in run.toy.space.buffers]
    while run.step < 30:
        run.advance()
    shares = []
    for buffer, start in zip(run.toy.space.buffers, starts, strict=False):
        changes = [array != start[name] for name, array in buffer.arrays.items()]
        shares.append(sum(map(np.count_nonzero, changes)) / max(1, sum(map(np.size, changes))))
    return run, shares


def all_finite(run: Run) -> None:
    """Fails where θ, the loss or a number of state is not finite."""
    theta = run.toy.theta
    bad = int((~np.isfinite(theta)).sum())
    assert not bad, f"After step {run.step - 1}, {bad} entries of θ are not finite."
    assert math.isfinite(run.toy.loss(theta)), f"After step {run.step - 1} the loss is {run.toy.loss(theta)}."
    for buffer in run.toy.space.buffers:
        bad = sum(int((~np.isfinite(array.astype(np.float64))).sum()) for array in buffer.arrays.values())
        assert not bad, f"After step {run.step - 1}, {bad} entries of '{buffer.owner}' are not finite."
    if not (foreign(run.state, run.toy.space) or foreign(run.rule_state, run.toy.space)):
        state = json.dumps(packed(run))
        assert not any(word in state for word in ("NaN", "Infinity")), f"State is not finite: {state}."


class Spoilt(LossBackend):
    """A toy's answers, one of which is not finite.

    Args:
        toy: who is asked.
        at: which of the losses and slopes of the step, from 0.
        value: what is answered in its place.
    """

    def __init__(self, toy: Toy, at: int, value: float) -> None:
        self._asked, self.strategy = Asked(toy), toy.strategy
        self._at, self._value, self._told = at, value, 0

    def forward(self) -> float:
        return self._next(self._asked.forward())

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        return [self._next(answer) for answer in self._asked.losses_at(directions)]

    def jvp(self, direction: Direction) -> tuple[float, float]:
        loss, slope = self._asked.jvp(direction)
        return self._next(loss), self._next(slope)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        loss, gradient = self._asked.gradient(part, recompute)
        return self._next(loss), gradient

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        return self._asked.input_norms(space)

    def on_batch(self, index: int) -> LossBackend:
        return self

    def _next(self, answer: float) -> float:
        self._told += 1
        return self._value if self._told == self._at + 1 else answer


def spoilt(run: Run, at: int, value: float) -> Oracle:
    """The oracle of a run's next step, with one answer that is not finite."""
    return Oracle(run.toy.space, Key(run.seed, run.step, 0), run.step / run.steps, Spoilt(run.toy, at, value))


def learns(toy: Toy, estimator: Estimator) -> None:
    """Fails unless the loss falls by 3 % from three seeds, at one step size of many."""
    before, tried = toy.loss(toy.theta), dict[str, float]()
    for name, rule in _rules(estimator.rule):
        stepping = changed(estimator, rule=rule)
        for seed in range(3):
            tried[name] = _after(toy, stepping, seed)
            if not tried[name] < 0.97 * before:
                break
        else:
            return
    best = min(tried, key=lambda name: tried[name])
    raise AssertionError(
        f"In 200 steps the loss went from {before:.4g} to {tried[best]:.4g} at best ({best}); at one step size it "
        "should fall by 3 % from each of three seeds. Tried: "
        f"{', '.join(f'{name}: {loss:.4g}' for name, loss in tried.items())}."
    )


def _after(toy: Toy, estimator: Estimator, seed: int) -> float:
    """The loss after 200 steps, or sooner where it is half of what it was or ten times as much."""
    run, start = Run(toy.anew(), estimator, 200, seed), toy.loss(toy.theta)
    loss = start
    with np.errstate(all="ignore"):
        while run.step < run.steps and start / 2 <= loss < 10 * start:
            for _ in range(25):
                run.advance()
            loss = run.toy.loss(run.toy.theta)
    return loss if math.isfinite(loss) else math.inf


def _rules(own: StepRule) -> Iterator[tuple[str, StepRule]]:
    """The rule itself and the plain one, at various step sizes."""
    for lr in RATES:
        try:
            yield f"own rule, lr {lr:g}", with_rate(own, lr=lr)
        except SkipTest:
            break
    for lr in RATES:
        yield f"plain rule, lr {lr:g}", Plain(lr=lr)
