"""Dry runs compared with runs: forward passes, passes over the weights, and bytes of state."""

from __future__ import annotations

import math
from typing import Any

from zoplat.core.estimator import Estimator
from zoplat.testing.problems import a_network
from zoplat.testing.runs import Run
from zoplat.training.dry_run import MeasuredCost, kept_bytes, measure_cost, measured_steps


def dry_run_agrees(estimator: Estimator[Any], how: str = "") -> None:
    """Fails where a dry run on the shapes of a toy counts something else than a run on the toy.

    Args:
        estimator: with its rule.
        how: begins the message.
    """
    dry, real = measure_cost(estimator, a_network(dtype="float32").blocks), counted(estimator)
    for what, name in (("forward passes", "forward_passes"), ("passes over θ", "passes_over_weights")):
        one, other = getattr(dry, name), getattr(real, name)
        assert math.isclose(one, other, rel_tol=0.05, abs_tol=1e-9), (
            f"{how}A dry run counts {one:.4g} {what} a step, and {other:.4g} were counted over {real.steps} steps. "
            "What a step takes may depend on settings and on answers, not on entries of arrays."
        )
    for block, size in real.state_bytes.items():
        assert dry.state_bytes[block] == size, (
            f"{how}A dry run counts {dry.state_bytes[block]} bytes of state for '{block}', and a run keeps {size}."
        )


def counted(estimator: Estimator[Any], strategy: str = "sequential") -> MeasuredCost:
    """What the steps of a run on a network take: as many steps, and as many before them, as a dry run makes."""
    toy = a_network(dtype="float32").anew(grid=64)
    toy.strategy = strategy
    warmup, steps = measured_steps(estimator)
    run = Run(toy, estimator, warmup + steps)
    for _ in range(warmup):
        run.advance()
    start = toy.space.passes_over_weights
    passes = sum(run.advance().passes for _ in range(steps))
    moves = round((toy.space.passes_over_weights - start) / steps, 9)
    return MeasuredCost(passes / steps, moves, kept_bytes(toy.space), kept_bytes(toy.space, mapped=True), steps)
