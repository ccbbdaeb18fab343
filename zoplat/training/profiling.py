"""Time and memory of a few steps, and a smoothing radius that suits a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.device import Session
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.noise import Key
from zoplat.training.attribution import Attribution
from zoplat.training.batches import Batches
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.readings import Readings
from zoplat.training.setup import preferred_strategy
from zoplat.training.step import Learner
from zoplat.training.timeline import Timeline

GRID = tuple(10 ** (power / 2) for power in range(-10, 0))
"""Radii that are tried: two per power of ten from 10⁻⁵ to 10⁻¹ᐟ²."""
PROBES_EVERY = 1.0
"""Seconds between readings of the machine's probes."""
DIRECTIONS = 6
"""Random directions along which they are tried."""
TOLERANCE = 1e-2
"""Relative difference up to which a larger radius is preferred: it suffers less from rounded weights."""


@dataclass(frozen=True)
class Suggestion:
    """A smoothing radius, and the measurements behind it.

    Attributes:
        eps: the suggested radius, one of `GRID`.
        error: by radius, the relative difference between the slope at it and at the next larger one; median over
            directions. Rounding makes it grow where radii are small, curvature where they are large.
        slopes: by radius, the slope [L(θ + εz) − L(θ − εz)] / 2ε along each direction.
        noise: standard error of a loss, estimated from the slopes at the smallest radius: |difference| · ε·√2.
        passes: forward passes that were made.
    """

    eps: float
    error: dict[float, float]
    slopes: dict[float, list[float]]
    noise: float
    passes: int


def suggest_eps(config: RunConfig, session: Session, rows: Sequence[Row], objective: Objective) -> Suggestion:
    """The radius at which central differences, along directions of the method's own law, agree best with the next ones.

    Args:
        config: has the estimator.
        session: the open model; θ is settled afterwards.
        rows: a batch, the same for all radii.
        objective: the loss.

    Raises:
        ZoplatError: the method draws no directions, or no radius gives finite losses.
    """
    law = law_of(config.estimator)
    if law is None:
        raise ZoplatError(f"'{config.estimator_name}' draws no directions, so it has no radius to suggest.")
    space, seed = session.space, derived_seed(config.seed, "noise")

    def loss(direction: Direction) -> float:
        space.at(direction)
        return float(objective.loss(session, rows))

    slopes: dict[float, list[float]] = {}
    for eps in GRID:
        drawn = (space.draw(law, Key(seed, 0, i)) for i in range(DIRECTIONS))
        slopes[eps] = [(loss(eps * z) - loss(-eps * z)) / (2 * eps) for z in drawn]
    space.settle()
    error = {eps: _difference(slopes[eps], slopes[larger]) for eps, larger in pairwise(GRID)}
    finite = {eps: e for eps, e in error.items() if math.isfinite(e)}
    if not finite:
        raise ZoplatError("No radius gives finite losses; is the model itself sound? `zoplat eval` shows its score.")
    best = min(finite.values())
    eps = max(eps for eps, e in finite.items() if e <= max(best, TOLERANCE))
    differences = [abs(a - b) for a, b in zip(slopes[GRID[0]], slopes[eps], strict=True)]
    return Suggestion(eps, error, slopes, median(differences) * GRID[0] * math.sqrt(2), 2 * len(GRID) * DIRECTIONS)


def _difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Median of the absolute differences over the median of the absolute values of `other`."""
    size = median(abs(x) for x in other)
    return median(abs(a - b) for a, b in zip(one, other, strict=True)) / size if size else math.inf


def profile(
    config: RunConfig,
    session: Session,
    profiler: Profiler,
    batches: Batches,
    objective: Objective,
    steps: int,
    probes: Sequence[str] = (),
    only_inference: bool = False,
) -> dict[str, Any]:
    """Seconds and peaks by phase with their owners, and a timeline, of a few steps after a first one.

    After them one more step, on the longest of their batches, is traced for what its passes hold, and for nothing else.

    Args:
        config: the settings.
        session: the open model.
        profiler: of the session.
        batches: the training rows.
        objective: the loss.
        steps: how many to measure.
        probes: machine probes to read beside the usual ones.
        only_inference: whether forward passes on the batches are made in place of the steps.

    Raises:
        ZoplatError: a probe can't be read here.
    """
    attribution, readings = Attribution(session), Readings(probes, every=PROBES_EVERY)
    work = _Passes(session, objective) if only_inference else _Steps(config, session, objective, batches.rows)
    with profiler.phase("inference"):
        objective.bare_loss(session, batches.at(0))
    work.advance(batches, profiler)
    warm, passes = {row["phase"]: row for row in profiler.rows()}, work.passes
    with Timeline(profiler) as timeline:
        for _ in range(steps):
            work.advance(batches, profiler)
            readings.take(now=False)
    session.space.settle()
    made = work.passes - passes
    reserved = session.memory().device_reserved
    readings.take()
    readings.close()
    _trace(work, session, attribution, max((batches.at(step) for step in range(steps + 1)), key=_length))
    attribution.finish()
    phases = []
    for row in attribution.rows(profiler):
        before = warm.get(row["phase"], {"seconds": 0.0, "calls": 0})
        once = row["phase"] == "open" or (row["phase"] == "inference" and not only_inference)
        taken = row["seconds"] if once else (row["seconds"] - before["seconds"]) / steps
        phases.append({**row, "seconds": taken, "of": "all" if once else "a step"})
    each = [row["seconds"] for row in phases if row["of"] == "a step"]
    return {
        "status": "done",
        "estimator": "inference" if only_inference else config.estimator_name,
        "steps": steps,
        "strategy": work.strategy,
        "forward_passes_a_step": made / steps,
        "seconds_a_step": sum(each),
        "phases": phases,
        "owners": session.ledger(),
        "reserved": reserved,
        "probes": [reading.row for reading in readings.rows],
        "probes_missing": readings.missing,
        "timeline": timeline.rows(),
        "tune": config.tune.name,
        **{name: session.facts.get(name) for name in ("model", "device", "dtype", "restore", "threads", "model_bytes")},
        "memory_counter": session.facts.get("memory_counter"),
    }


class _Steps:
    """Steps of training."""

    def __init__(self, config: RunConfig, session: Session, objective: Objective, rows: Sequence[Row]) -> None:
        self._learner = Learner(config, session, objective, strategy=preferred_strategy(config, session, rows))

    @property
    def strategy(self) -> str:
        """How several losses are evaluated."""
        return self._learner.strategy

    @property
    def passes(self) -> int:
        """Forward passes up to now."""
        return self._learner.progress.passes

    def advance(self, batches: Batches, profiler: Profiler) -> None:
        """Make a step."""
        self._learner.advance(batches, profiler)


class _Passes:
    """Forward passes alone, one a step."""

    strategy = ""

    def __init__(self, session: Session, objective: Objective) -> None:
        self._session, self._objective, self.passes = session, objective, 0

    def advance(self, batches: Batches, profiler: Profiler) -> None:
        """Make a pass."""
        with profiler.phase("inference"):
            self._objective.bare_loss(self._session, batches.at(self.passes))
        self.passes += 1


def _trace(work: _Steps | _Passes, session: Session, attribution: Attribution, rows: Sequence[Row]) -> None:
    """Make one more step, on these rows, and find out what its passes hold."""
    trace = session.allocations()
    if trace is None:
        return
    tracer = attribution.tracer(trace)
    session.space.time_phases(tracer.phase)
    with trace:
        work.advance(Batches(rows, len(rows), 0), tracer)
        session.space.settle()
        tracer.now()
    attribution.keep(tracer)


def _length(rows: Sequence[Row]) -> int:
    """Tokens of the longest row."""
    return max(row.length for row in rows)
