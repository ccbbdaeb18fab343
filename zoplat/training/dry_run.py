"""What a step takes, measured without a model: the method runs on shapes, and what it does is counted.

Weights have no entries and losses are those of a linear function of random vectors, so a model of any size takes
milliseconds. What depends on the answers, such as a step that is taken back, is that of a run whose loss falls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

from zoplat.core.arrays import Array
from zoplat.core.blocks import Part
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import SkipStep, ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.input_directions import LossAndRows
from zoplat.core.losses import LossBackend
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.core.rule import StepRule
from zoplat.registry import catalogue
from zoplat.space.counting import BlockShape, CountingSpace, PlaceholderArray, Shaped
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.space.rounding import RoundingName

ROWS = 4
"""Rows of a batch where nothing else is said, for methods that ask for the loss of each."""
STEPS, LONGEST = 40, 500
"""Steps over which is averaged, at least; the longest period that is waited for."""
WIDTH, VOCABULARY = 1024, 4096
"""Columns of the matrices of the stand-in model, and rows of its embedding."""


class CostUnknown(ZoplatError):
    """A method that can't be run on shapes."""


@dataclass(frozen=True)
class MeasuredCost:
    """What a step takes on average, and what is kept between steps.

    Attributes:
        forward_passes: a derivative at what it counts for (`zoplat.core.oracle`).
        passes_over_weights: passes that write θ; one over some of the blocks counts for their share of the weights.
        state_bytes: by name of the block, bytes of its buffers in memory.
        mapped_bytes: by name of the block, bytes of its buffers in files.
        steps: over which was averaged: whole periods.
    """

    forward_passes: float
    passes_over_weights: float
    state_bytes: Mapping[str, int]
    mapped_bytes: Mapping[str, int]
    steps: int


class LinearLosses(LossBackend):
    """L(θ + d) = 2 + arctan ⟨a, d⟩, the entries of a unknown: along each random vector the slope is a normal number.

    So losses differ from point to point, and a step down the slope lowers them.

    Args:
        space: knows where forward passes are made; its blocks have gradients and inputs.
        strategy: how several losses are evaluated.
        rows: of the batch.
    """

    def __init__(self, space: CountingSpace, strategy: str, rows: int = ROWS) -> None:
        self.strategy = strategy
        self._space, self._rows = space, rows

    def forward(self) -> float:
        return _loss(self._space.probe)

    def losses_at(self, directions: Sequence[Direction]) -> list[float]:
        return [_loss(direction) for direction in directions]

    def jvp(self, direction: Direction) -> tuple[float, float]:
        return _loss(ZERO), _slope(direction)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        blocks = [block for block in self._space.blocks if block in part]
        return _loss(ZERO), {block.name: PlaceholderArray(block.shape) for block in blocks}

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        """One number in place of a row of them, which for a large model would be millions."""
        return {block.name: [1.0] for block in space.blocks if len(block.shape) == 2}

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        """One number in place of a direction; all matrices have one."""
        return _loss(ZERO), {block.name: [[1.0]] for block in space.blocks if len(block.shape) == 2}

    def row_count(self) -> float:
        return float(self._rows)

    def row_losses(self, rows: Sequence[int]) -> list[float]:
        return [_loss(self._space.probe) for _ in rows]

    def row_losses_at(self, points: Sequence[Sequence[Direction]]) -> list[list[float]]:
        return [[_loss(direction) for direction in point] for point in points]

    def secret_normals(self, n: int) -> list[float]:
        """No noise, so that the loss falls."""
        return [0.0] * n

    def on_batch(self, index: int) -> LossBackend:
        return self


def _loss(direction: Direction) -> float:
    return 2 + math.atan(_slope(direction))


def _slope(direction: Direction) -> float:
    return sum(c * _slope_along(draw.key) for draw, c in direction)


@lru_cache(maxsize=1 << 12)
def _slope_along(key: Key) -> float:
    return Random(str(key)).gauss(0, 1)


class DryRun:
    """An estimator at work on shapes.

    Args:
        estimator: with its rule.
        shapes: of the trainable arrays.
        strategy: how losses that are asked together are evaluated: "sequential", "batched" or "streaming".
        restore, rounding: as in `ParameterSpace`.
        rows: of a batch.

    Attributes:
        space: counts passes over the weights, and has the buffers.
        forward_passes: so far.
    """

    def __init__(
        self,
        estimator: Estimator[Any],
        shapes: Sequence[Shaped],
        strategy: str = "sequential",
        restore: Restore = "in-place",
        rounding: RoundingName = "nearest",
        rows: int = ROWS,
    ) -> None:
        self.space = CountingSpace(shapes, restore, rounding)
        self.forward_passes = 0
        self._estimator, self._step = estimator, 0
        self._losses = LinearLosses(self.space, strategy, rows)
        self._states = estimator.init(self.space), estimator.rule.init_for(self.space, estimator.law)

    def advance(self, steps: int) -> None:
        """So many steps, as the engine makes them."""
        state, rule_state = self._states
        for step in range(self._step, self._step + steps):
            oracle = Oracle(self.space, Key(0, step, -1), progress=0.0, backend=self._losses)
            with suppress(SkipStep):
                for estimate in self._estimator.estimate(oracle, state):
                    self._estimator.apply(estimate, oracle, rule_state)
            self.forward_passes += oracle.passes
        self._step += steps


def measure_cost(
    estimator: Estimator[Any],
    shapes: Sequence[Shaped],
    strategy: str = "sequential",
    restore: Restore = "in-place",
    rounding: RoundingName = "nearest",
    rows: int = ROWS,
) -> MeasuredCost:
    """What a step of an estimator with its rule takes: a dry run of whole periods, after one that is not counted.

    Args:
        estimator: with its rule.
        shapes: of the trainable arrays.
        strategy: as in `DryRun`.
        restore: as in `ParameterSpace`.
        rounding: as in `ParameterSpace`; master weights are state.
        rows: of a batch.

    Raises:
        CostUnknown: the method refuses the shapes, or reads numbers that a dry run does not have.
    """
    warmup, steps = measured_steps(estimator)
    try:
        run = DryRun(estimator, shapes, strategy, restore, rounding, rows)
        run.advance(warmup)
        passes, moves = run.forward_passes, run.space.passes_over_weights
        run.advance(steps)
    except Exception as problem:
        reason = str(problem) if isinstance(problem, ZoplatError) else f"{type(problem).__name__}: {problem}"
        raise CostUnknown(f"The cost of a step could not be measured: {reason}") from problem
    return MeasuredCost(
        (run.forward_passes - passes) / steps,
        round((run.space.passes_over_weights - moves) / steps, 9),
        kept_bytes(run.space),
        kept_bytes(run.space, mapped=True),
        steps,
    )


def passes_of_first_step(estimator: Estimator[Any], rows: int) -> int:
    """Forward passes of the first step of an estimator on batches of so many rows; 0 where it can't run on shapes."""
    try:
        run = DryRun(estimator, stand_in_model(layers=1), rows=rows)
        run.advance(1)
    except Exception:  # what it needs of a model is its own affair
        return 0
    return run.forward_passes


def measured_steps(estimator: Estimator[Any]) -> tuple[int, int]:
    """(one period, the fewest whole periods of 40 steps or more) of a method that repeats itself."""
    period = min(_period(estimator), LONGEST)
    return period, period * math.ceil(STEPS / period)


def kept_bytes(space: ParameterSpace, mapped: bool = False) -> dict[str, int]:
    """Bytes of a space's buffers in memory, or in files, by name of the block; 0 for blocks without any."""
    kept = {block.name: 0 for block in space.blocks}
    for buffer in space.buffers:
        for name, array in buffer.arrays.items() if buffer.is_mapped == mapped else ():
            kept[name] += int(array.nbytes)
    return kept


@lru_cache(maxsize=64)
def mezo_with(rule: StepRule[Any]) -> Estimator[Any]:
    """MeZO with this rule, and with the first registered law that the rule does not refuse.

    Raises:
        ZoplatError: it refuses them all.
    """
    known, refusal = catalogue(), ""
    mezo: Any = known.entry("estimator", "mezo").value
    for name in ("gaussian", *known.names("sampler")):
        host: Estimator[Any] = replace(mezo, rule=rule, sampler=known.entry("sampler", name).value)
        try:
            DryRun(host, stand_in_model(layers=1)).advance(1)
        except ZoplatError as problem:
            refusal = refusal or str(problem)
        else:
            return host
    raise ZoplatError(f"It takes the estimates of MeZO with no law that is registered: {refusal}")


def rule_cost(rule: StepRule[Any], shapes: Sequence[Shaped], strategy: str = "sequential") -> MeasuredCost:
    """What a step-size rule adds to a step of MeZO, beside a constant step size.

    Raises:
        ZoplatError: it can't be run on shapes, or takes no estimates of MeZO.
    """
    host: Any = mezo_with(rule)
    plain = replace(host, rule=catalogue().entry("step-rule", "constant").value)
    whole, base = measure_cost(host, shapes, strategy), measure_cost(plain, shapes, strategy)
    return replace(
        whole,
        forward_passes=whole.forward_passes - base.forward_passes,
        passes_over_weights=round(whole.passes_over_weights - base.passes_over_weights, 9),
    )


def stand_in_model(layers: int = 2) -> list[BlockShape]:
    """The shapes of a small decoder with biases, named as in the usual checkpoints; its width is `WIDTH`."""
    return [
        BlockShape("model.embed_tokens.weight", (VOCABULARY, WIDTH)),
        *(shape for layer in range(layers) for shape in _layer(layer)),
        BlockShape("model.norm.weight", (WIDTH,)),
    ]


def _layer(layer: int) -> Iterator[BlockShape]:
    """A decoder layer."""
    inner = 4 * WIDTH
    matrices = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
    matrices |= {"mlp.up_proj": (inner, WIDTH), "mlp.down_proj": (WIDTH, inner)}
    for name, shape in matrices.items():
        yield BlockShape(f"model.layers.{layer}.{name}.weight", shape, layer=layer)
        yield BlockShape(f"model.layers.{layer}.{name}.bias", shape[:1], layer=layer)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield BlockShape(f"model.layers.{layer}.{name}.weight", (WIDTH,), layer=layer)


def _period(part: Any) -> int:
    """Steps after which a periodic method repeats itself: a common multiple of the whole numbers in its fields."""
    period = 1
    for field in fields(part) if is_dataclass(part) else ():
        value = getattr(part, field.name)
        if isinstance(value, Estimator | StepRule):
            period = math.lcm(period, _period(value))
        elif type(value) is int and value > 0:
            period = math.lcm(period, value)
    return period
