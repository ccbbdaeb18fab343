"""How far a method's estimates agree with the true gradient, on a model small enough for both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.direction import Direction
from zoplat.core.errors import SkipStep, ZoplatError
from zoplat.core.noise import Key
from zoplat.core.oracle import Oracle
from zoplat.space.parameter_space import ParameterSpace
from zoplat.training.batches import Batches
from zoplat.training.live_losses import LiveLosses
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner

Products = dict[str, tuple[float, float, float]]
"""Block → ⟨ĝ, ∇L⟩, ‖ĝ‖² and ‖∇L‖² on it."""


def agreement(
    config: RunConfig, session: Session, profiler: Profiler, batches: Batches, objective: Objective, steps: int
) -> dict[str, Any]:
    """Cosine of each step's estimate with the gradient of the same batch at the same θ, by backpropagation.

    The steps are made, so that the cosines are those along a run. Random directions alone give √(n/d) for n of them and
    d weights.

    Args:
        config: the settings.
        session: the open model.
        profiler: of the session.
        batches: the training rows.
        objective: the loss.
        steps: how many to make.

    Returns:
        cosines (of each estimate, over all blocks), their mean, blocks (name → mean cosine, where neither was 0), and
        weights, their number d.

    Raises:
        ZoplatError: the device or the objective has no gradient, or no estimate could be made.
    """
    if "gradient" not in config.device.answers or config.is_judged:
        what = f"--objective {config.objective}" if config.is_judged else f"device '{config.device_name}'"
        raise ZoplatError(
            f"--agreement compares with the gradient, and {what} has none. Use --device cpu, for example."
        )
    learner = Learner(config, session, objective)
    found: list[Products] = []
    for step in range(steps):
        live = LiveLosses(session, objective, batches, profiler, step, batches.at(step), learner.strategy)
        found += _step(config, learner, Oracle(session.space, Key(learner.seed, step, -1), step / steps, live))
    session.space.settle()
    cosines = [c for products in found if (c := _cosine(list(products.values()))) is not None]
    if not cosines:
        raise ZoplatError(f"{steps} steps made no estimate that could be compared. Another --lr or --eps may help.")
    blocks = {name: [c for each in found if (c := _cosine([each[name]])) is not None] for name in found[0]}
    return {
        "status": "done",
        "estimator": config.estimator_name,
        "steps": steps,
        "weights": session.space.size,
        "mean": fmean(cosines),
        "cosines": cosines,
        "blocks": {name: fmean(some) for name, some in blocks.items() if some},
    }


def _step(config: RunConfig, learner: Learner, oracle: Oracle) -> Iterator[Products]:
    """Make a step; the products of each of its estimates with the gradient before it is applied."""
    estimator, states = config.estimator, learner.states
    try:
        for estimate in estimator.estimate(oracle, states["estimator"]):
            _, gradient = oracle.gradient()
            yield _products(oracle.space, estimate.direction, gradient)
            estimator.apply(estimate, oracle, states["rule"])
    except SkipStep:
        return


def _products(space: ParameterSpace, estimate: Direction, gradient: Direction) -> Products:
    dots, sizes, norms = (
        space.dot(a, b) for a, b in ((estimate, gradient), (estimate, estimate), (gradient, gradient))
    )
    return {name: (dots[name], sizes[name], norms[name]) for name in dots}


def _cosine(products: list[tuple[float, float, float]]) -> float | None:
    """Cosine over some blocks; None where one of the vectors is 0 there."""
    dot, one, other = (math.fsum(column) for column in zip(*products, strict=True))
    return dot / math.sqrt(one * other) if one > 0 < other else None
