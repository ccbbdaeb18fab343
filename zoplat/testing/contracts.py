"""What every estimator, sampler and step rule promises, as tests to inherit."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from zoplat.direction import ZERO, Direction, Draw, Key
from zoplat.estimator import Estimate, Estimator
from zoplat.oracle import Oracle
from zoplat.rule import StepRule
from zoplat.sampler import Sampler
from zoplat.space import Block, Buffer, ParameterSpace
from zoplat.testing.toys import SHAPES, Plain, Toy, Vector, linear, quadratic, train, two_layers

PARTS = (Estimator, Sampler, StepRule)


class PartContract:
    """What holds for every part: its fields are frozen, documented, and survive a trip through TOML."""

    def part(self) -> Any:
        """The part under contract."""
        raise NotImplementedError

    def test_the_part_is_a_frozen_dataclass(self) -> None:
        part: Any = self.part()
        parameters = getattr(type(part), "__dataclass_params__", None)
        assert parameters is not None, f"{part!r} is no dataclass."
        assert parameters.frozen, f"{type(part).__name__} can be changed: write @dataclass(frozen=True)."
        assert replace(part) == part, f"A copy of {part!r} does not equal it."
        assert hash(replace(part)) == hash(part), f"A copy of {part!r} has another hash."

    def test_every_field_is_documented(self) -> None:
        documented = _documented(type(self.part()))
        missing = [field.name for field in fields(self.part()) if field.name not in documented]
        assert not missing, f"{type(self.part()).__name__} has no line under 'Attributes:' for {missing}."

    def test_every_field_survives_a_trip_through_toml(self) -> None:
        for path, value in _values(self.part()):
            text = json.dumps(value) if isinstance(value, bool | str) else repr(value)
            assert isinstance(value, bool | int | float | str), (
                f"{path} is {text}, a {type(value).__name__}: settings are int, float, bool, str or parts."
            )
            back = tomllib.loads(f"value = {text}")["value"]
            same = type(back) is type(value) and back == value
            assert same, f"{path} is {value!r}, back from TOML {back!r}."


class EstimatorContract(PartContract):
    """Inherit, and set `estimator`; it is tried on losses in float64 with about 60 to 90 weights.

    Attributes:
        estimator: the estimator, as it is registered.
        lr: constant step size with which it must learn on the toys.
        steps: steps in which it must.
    """

    estimator: Estimator
    lr: float = 2e-3
    steps: int = 200

    def part(self) -> Estimator:
        """The estimator."""
        return self.estimator

    def test_a_constant_step_lowers_a_linear_loss_by_exactly_h_times_g_squared(self) -> None:
        """On every step, with g² the mean square of the slopes that the answers show along what was drawn."""
        toy, h, steps = linear(), 0.01, 60
        estimator = self._with(lr=h)
        state, rule_state = estimator.init(toy.space), estimator.rule.init(toy.space)
        for step in range(steps):
            before = toy.loss(toy.theta)
            oracle = _Listener(toy.space, Key(3, step, 0), step / steps, toy.forward)
            for estimate in estimator.estimate(oracle, state):
                square = oracle.square_of_slope(estimate, before)
                estimator.rule.apply(estimate, oracle, rule_state)
                after = toy.loss(toy.theta)
                assert abs(before - after - h * square) <= 1e-6 * h * square + 1e-10, (
                    f"Step {step}: the loss fell by {before - after:.9g}, but h·g² is {h * square:.9g}. "
                    "The vector that is applied is not the vector that was probed, or its scale is another."
                )
                before = after

    def test_a_step_of_size_zero_leaves_theta_where_it_was(self) -> None:
        toy = quadratic()
        start = toy.theta
        train(toy, self._with(lr=0.0), steps=20)
        off = np.abs(toy.theta - start).max()
        assert off <= 1e-12, f"After 20 steps of size 0 an entry of θ is off by {off:.3g} (float64, in place)."

    def test_a_step_of_size_zero_leaves_every_bit_with_exact_restore(self) -> None:
        toy = quadratic(dtype="float32", restore="exact")
        start = toy.bits
        train(toy, self._with(lr=0.0), steps=20)
        assert toy.bits == start, "restore='exact', steps of size 0, and yet bits of θ have changed."

    def test_a_recorded_run_replays_to_the_same_bits(self) -> None:
        first, second = two_layers(dtype="float32"), two_layers(dtype="float32")
        answers = train(first, self._with(), steps=25)
        train(second, self._with(), steps=25, answers=answers)
        assert first.bits == second.bits, "Given the same answers, 25 steps led to other weights."
        start = two_layers(dtype="float32").bits
        assert first.bits != start, "25 steps changed nothing, so this replay shows nothing: raise lr."

    def test_a_changed_answer_changes_the_bits_of_a_replay(self) -> None:
        first, second = two_layers(), two_layers()
        answers = train(first, self._with(), steps=25)
        answers[12][0] += 0.01
        train(second, self._with(), steps=25, answers=answers)
        assert first.bits != second.bits, "The first answer of step 12 was changed; the weights are the same."

    def test_the_registered_estimator_replays_with_its_own_rule(self) -> None:
        first, second = two_layers(), two_layers()
        answers = train(first, self.estimator, steps=20)
        train(second, self.estimator, steps=20, answers=answers)
        assert first.bits == second.bits, "Given the same answers, its own rule led to other weights."

    def test_exact_and_in_place_restore_agree_within_rounding(self) -> None:
        exact, in_place = two_layers(restore="exact"), two_layers(restore="in-place")
        one, other = train(exact, self._with(), steps=30), train(in_place, self._with(), steps=30)
        apart = max(abs(a - b) for step in zip(one, other, strict=True) for a, b in zip(*step, strict=True))
        assert apart <= 1e-9, f"Answers under 'exact' and 'in-place' are {apart:.3g} apart (float64)."
        apart = np.abs(exact.theta - in_place.theta).max()
        assert apart <= 1e-9, f"Weights under 'exact' and 'in-place' are {apart:.3g} apart (float64)."

    def test_the_loss_falls_on_a_quadratic(self) -> None:
        self._learns(quadratic(), share=0.75)

    def test_the_loss_falls_on_a_network_of_two_layers(self) -> None:
        self._learns(two_layers(), share=0.9)

    def test_every_byte_of_state_came_from_the_space(self) -> None:
        toy = two_layers()
        estimator = self._with()
        state = estimator.init(toy.space)
        complaint = _foreign(state, toy.space, "state")
        assert not complaint, complaint
        for step in range(5):
            oracle = toy.oracle(step, 5)
            for estimate in estimator.estimate(oracle, state):
                estimator.rule.apply(estimate, oracle, None)
        complaint = _foreign(state, toy.space, "state after 5 steps")
        assert not complaint, complaint
        hidden = set(getattr(estimator, "__dict__", {})) - {field.name for field in fields(estimator)}  # type: ignore[arg-type]
        assert not hidden, f"The estimator keeps {sorted(hidden)} on itself; what `init` returns is the state."

    def test_a_step_leaves_the_global_random_states_alone(self) -> None:
        with _random_states_untouched():
            train(two_layers(), self._with(), steps=3)

    def _with(self, lr: float | None = None) -> Estimator:
        """The estimator with a constant step size."""
        if not self.estimator.asks <= {"losses"}:
            pytest.skip(f"The toys answer losses; this estimator asks {sorted(self.estimator.asks)}.")
        changed: Estimator = replace(self.estimator, rule=Plain(lr=self.lr if lr is None else lr))  # type: ignore[type-var]
        return changed

    def _learns(self, toy: Toy, share: float) -> None:
        before = toy.loss(toy.theta)
        train(toy, self._with(), self.steps, seed=1)
        after = toy.loss(toy.theta)
        assert after < share * before, (
            f"In {self.steps} steps with lr={self.lr:g} the loss went from {before:.4g} to {after:.4g}; "
            f"it should fall below {share * before:.4g}."
        )


class SamplerContract(PartContract):
    """Inherit, and set `sampler`.

    Attributes:
        sampler: the sampler, as it is registered.
        variance: of an entry of a matrix; a law that is not of unit variance says so here.
        vector_variance: of an entry of a vector.
    """

    sampler: Sampler
    variance: float = 1.0
    vector_variance: float = 1.0

    KEY = Key(seed=11, step=3, draw=1)

    def part(self) -> Sampler:
        """The sampler."""
        return self.sampler

    def test_the_numbers_do_not_depend_on_how_a_block_is_cut_or_visited(self) -> None:
        space = self._space()
        whole = {block.name: self._numbers(space, block, block.size) for block in space.blocks}
        for entries in (1, 7, 16, 64):
            for block in reversed(space.blocks):
                numbers = self._numbers(space, block, entries)
                differ = int((numbers != whole[block.name]).sum())
                assert not differ, (
                    f"{differ} of {block.size} numbers of '{block.name}' differ when it is cut in tiles of "
                    f"{entries} entries and visited backwards. Address noise by key and tile."
                )

    def test_another_seed_step_draw_or_block_gives_other_numbers(self) -> None:
        space = self._space()
        seed, step, draw = self.KEY.seed, self.KEY.step, self.KEY.draw
        others = {"seed": Key(seed + 1, step, draw), "step": Key(seed, step + 1, draw)}
        others["draw"] = Key(seed, step, draw + 1)
        blocks = {block.name: block for block in space.blocks}
        for block in (block for block in space.blocks if block.size >= 16):
            one = self._numbers(space, block, block.size)
            for what, key in others.items():
                other = self._numbers(space, block, block.size, key)
                assert (one != other).any(), f"Another {what} gives the same numbers for '{block.name}'."
        one, other = (self._numbers(space, blocks[name], 64).reshape(-1) for name in ("square.weight", "twin.weight"))
        assert (one != other).any(), "Two blocks of one shape get the same numbers: the address lacks the tile."

    def test_entries_have_mean_zero_and_the_variance_that_is_claimed(self) -> None:
        """Over 150 draws; the bound is five standard errors, as the spread between draws shows them."""
        space = self._space()
        for block in space.blocks:
            claimed = self.variance if len(block.shape) == 2 else self.vector_variance
            draws = [self._numbers(space, block, block.size, Key(5, 1009 * k, 0), scaled=True) for k in range(150)]
            for what, numbers, expected in (
                ("mean", draws, 0.0),
                ("variance", [z**2 for z in draws], claimed),
            ):
                means = np.array([n.mean() for n in numbers])
                bound = 5 * float(means.std()) / len(means) ** 0.5 + 1e-5
                assert abs(means.mean() - expected) <= bound, (
                    f"Entries of '{block.name}' have {what} {means.mean():.4g}, expected {expected:g} ± {bound:.2g}."
                )

    def test_factors_agree_with_fill(self) -> None:
        space = self._space()
        for block in space.blocks:
            for tile in block.tiles(16):
                factors = self.sampler.factors(tile, self.KEY, space.noise)
                if factors is None:
                    continue
                u, v = factors
                filled = np.empty(tile.shape, np.float32)
                self.sampler.fill(filled, tile, self.KEY, space.noise)
                off = np.abs(filled - u @ v.T).max()
                assert off <= 1e-5, f"On '{block.name}', U Vᵀ and what `fill` writes differ by {off:.3g}."

    def test_drawing_leaves_the_global_random_states_alone(self) -> None:
        space = self._space()
        with _random_states_untouched():
            self._numbers(space, space.blocks[0], 16, scaled=True)

    @staticmethod
    def _space() -> ParameterSpace:
        return linear({**SHAPES, "twin.weight": SHAPES["square.weight"]}, dtype="float32").space

    def _numbers(
        self, space: ParameterSpace, block: Block, entries: int, key: Key = KEY, scaled: bool = False
    ) -> Vector:
        """The block's entries of z, made tile by tile from the last to the first."""
        z = space.draw(self.sampler, key) if scaled else Direction.of(self.sampler, key)
        numbers = np.empty(block.shape)
        for tile in reversed(list(Block(block.name, block.array, block.dtype).tiles(entries))):
            tile.of(numbers)[:] = space.entries(z, tile)
        return numbers


class StepRuleContract(PartContract):
    """Inherit, and set `rule`.

    Attributes:
        rule: the step rule, as it is registered.
    """

    rule: StepRule

    def part(self) -> StepRule:
        """The rule."""
        return self.rule

    def test_a_step_size_of_zero_leaves_theta_where_it_was(self) -> None:
        self._has("lr")
        toy = linear()
        start = toy.bits
        self._apply(toy, replace(self.rule, lr=0.0), Direction.of(_Ramp(), Key(0, 0, 0)))  # type: ignore[type-var]
        assert toy.bits == start, f"With lr=0, {type(self.rule).__name__} changed θ."

    def test_an_estimate_of_zero_leaves_theta_where_it_was(self) -> None:
        toy = linear()
        start = toy.bits
        rule = replace(self.rule, decay=0.0) if hasattr(self.rule, "decay") else self.rule  # type: ignore[type-var]
        self._apply(toy, rule, ZERO)
        assert toy.bits == start, f"The estimate is 0, there is no decay, and {type(rule).__name__} changed θ."

    def test_decay_shrinks_matrices_by_one_minus_eta_lambda_and_leaves_vectors(self) -> None:
        self._has("decay")
        toy = linear()
        starts = [block.array.copy() for block in toy.space.blocks]
        rule: StepRule = replace(self.rule, lr=0.25, decay=0.5)  # type: ignore[type-var]
        eta = self._apply(toy, rule, ZERO)
        toy.space.settle()
        for block, start in zip(toy.space.blocks, starts, strict=True):
            factor = 1 - eta * 0.5 if len(block.shape) == 2 else 1.0
            assert (block.array == factor * start).all(), (
                f"'{block.name}', shape {block.shape}, should be {factor:.6g} times what it was; "
                f"its first entry went from {start.flat[0]:.9g} to {block.array.flat[0]:.9g}."
            )

    def test_every_byte_of_state_came_from_the_space(self) -> None:
        space = linear().space
        complaint = _foreign(self.rule.init(space), space, "state")
        assert not complaint, complaint

    def test_applying_leaves_the_global_random_states_alone(self) -> None:
        with _random_states_untouched():
            self._apply(linear(), self.rule, Direction.of(_Ramp(), Key(0, 0, 0)))

    def _has(self, name: str) -> None:
        if not hasattr(self.rule, name):
            pytest.skip(f"{type(self.rule).__name__} has no {name}.")

    @staticmethod
    def _apply(toy: Toy, rule: StepRule, direction: Direction) -> float:
        oracle = toy.oracle(step=300)
        rule.apply(Estimate(direction), oracle, rule.init(toy.space))
        return rule.rate(oracle) or 0.0


class _Ramp(Sampler):
    """1, 2, 3, … along every row: a vector that is easy to read in a failure."""

    def fill(self, out: Any, tile: Any, key: Key, noise: Any) -> None:
        out[:] = np.arange(1, 1 + tile.shape[-1])


class _Listener(Oracle):
    """An oracle that keeps what it was asked beside what it said."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.drawn: dict[Draw, float] = {}
        self.probes: list[tuple[Direction, float]] = []

    def draw(self, sampler: Sampler, n: int) -> list[Direction]:
        """As ever, and noted."""
        directions = super().draw(sampler, n)
        for direction in directions:
            self.drawn |= dict(direction)
        return directions

    def losses(self, *directions: Direction) -> list[float]:
        """As ever, and noted."""
        told = super().losses(*directions)
        self.probes += zip(directions, told, strict=True)
        return told

    def square_of_slope(self, estimate: Estimate, base: float) -> float:
        """Mean square of the slopes along the vectors probed since last time, from the answers alone."""
        names = list(dict.fromkeys(draw for direction, _ in self.probes for draw, _ in direction))
        fresh = [draw.key for draw, _ in estimate.direction if draw not in names]
        assert not fresh, f"Step {self.step}: the estimate holds vectors that were never probed: {fresh}."
        weights = np.array([[dict(d).get(name, 0.0) for name in names] for d, _ in self.probes])
        weights /= [self.drawn.get(name, 1.0) for name in names]
        rises = np.array([told - base for _, told in self.probes])
        slopes = np.linalg.lstsq(weights, rises, rcond=None)[0]
        worst = float(np.abs(weights @ slopes - rises).max())
        assert worst <= 1e-6 * float(np.abs(rises).max()), (
            f"Step {self.step}: no slopes explain the answers on a linear loss (off by {worst:.3g} of "
            f"{np.abs(rises).max():.3g}). The same named vector gave different numbers on different visits."
        )
        self.probes = []
        return float(np.mean(slopes**2))


def _documented(cls: type) -> set[str]:
    """Names with a line of their own in the Attributes section of the class or of one it builds on."""
    names: set[str] = set()
    for base in cls.__mro__:
        section = (base.__dict__.get("__doc__") or "").partition("Attributes:")[2]
        for line in re.findall(r"^\s+([\w, ]+):", section, re.MULTILINE):
            names |= {name.strip() for name in line.split(",")}
    return names


def _values(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All settings of a part and of the parts in its fields, with their dotted paths."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, PARTS):
            yield from _values(value, f"{path}{field.name}.")
        else:
            yield path + field.name, value


def _foreign(state: Any, space: ParameterSpace, path: str) -> str:
    """A sentence on the first thing in a state that a checkpoint can't hold or the ledger can't see."""
    if state is None or isinstance(state, bool | int | float | str):
        return ""
    if isinstance(state, Buffer):
        known = any(state is buffer for buffer in space.buffers)
        return "" if known else f"{path} is a Buffer that `space.buffer` did not make."
    if isinstance(state, list | tuple):
        inside = [(f"{path}[{i}]", value) for i, value in enumerate(state)]
    elif is_dataclass(state) and not isinstance(state, type):
        inside = [(f"{path}.{field.name}", getattr(state, field.name)) for field in fields(state)]
    else:
        return f"{path} is a {type(state).__name__}: state is made of Buffers from `space.buffer` and numbers."
    complaints = (_foreign(value, space, name) for name, value in inside)
    return next((complaint for complaint in complaints if complaint), "")


@contextmanager
def _random_states_untouched() -> Iterator[None]:
    python, array = random.getstate(), str(np.random.get_state())
    yield
    assert random.getstate() == python, "The state of Python's `random` has changed: only `Noise` makes numbers."
    assert str(np.random.get_state()) == array, "The state of `numpy.random` has changed: only `Noise` makes numbers."
