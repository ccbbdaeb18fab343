"""Steps to measure: those of zoplat as a run makes them, and the published ones on the same model and batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch

from bench import published
from bench.cases import Setup, Variant
from bench.models import SameBatch
from zoplat import ZERO, Row, ZoplatError
from zoplat.config.layers import resolve
from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.losses import SIDE_TERMS
from zoplat.core.memory import MemoryReading
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner
from zoplat_devices.pytorch.parameters import by_address
from zoplat_devices.pytorch.session import PyTorchSession


class Step(Protocol):
    """A step, with preparation and clean-up that are not timed.

    Attributes:
        passes: forward passes of one call.
        moves: passes over the weights in one call; None where they are not counted.
    """

    passes: int
    moves: float | None

    def before(self) -> None:
        """Bring the session into the state that it has in the middle of a run."""

    def __call__(self) -> None:
        """Make the step."""

    def after(self) -> None:
        """Restore the session for other steps."""


class ZoplatStep:
    """A step of zoplat as a run makes it, profiler included.

    Args:
        session: an opened model.
        setup: how it was opened.
        variant: the step.
        rows: the batch.
    """

    def __init__(self, session: Session, setup: Setup, variant: Variant, rows: Sequence[Row]) -> None:
        settings = {"device": session.facts["device"], "tune": setup.tune, "dtype": setup.dtype, "lr": published.LR}
        config = resolve({**settings, **variant.settings, "evaluate_every": 10**9})
        session.space.settle()
        self.session, self.variant, self.batches, self.passes = session, variant, SameBatch(rows), 0
        self.moves: float | None = None
        self.learner = Learner(config, session, strategy=_strategy(variant, config, session, rows))
        self.profiler = Profiler(session.memory, session.reset_peak)

    def before(self) -> None:
        self.session.space.time_phases(self.profiler.phase)
        self()

    def __call__(self) -> None:
        passes, moves = self.learner.progress.passes, self.session.space.passes_over_weights
        self.learner.advance(self.batches, self.profiler)
        self.passes = self.learner.progress.passes - passes
        self.moves = round(self.session.space.passes_over_weights - moves, 3)
        if self.learner.progress.skipped:
            raise ZoplatError(
                f"{self.variant.name}: a step was skipped, which would make it look cheap: {self.learner.skip_reason}"
            )

    def after(self) -> None:
        pass

    def profiled(self, times: int) -> MemoryReading:
        """The peak of so many steps, by a new profiler."""
        self.session.reset_peak()
        self.profiler = Profiler(self.session.memory, self.session.reset_peak)
        self.before()
        for _ in range(times - 1):
            self()
        return self.profiler.peak


def _strategy(variant: Variant, config: RunConfig, session: Session, rows: Sequence[Row]) -> str:
    """That of the variant; sequential in place of side terms where a run would choose that for so many tokens."""
    chosen = session.strategy_for(law_of(config.estimator), sum(row.length for row in rows))
    return chosen if (chosen, variant.strategy) == ("sequential", SIDE_TERMS["sequential"]) else variant.strategy


class PublishedStep:
    """A published step on a session's model; `after` moves the result into the session's own arrays.

    Args:
        session: an opened model; a method without backpropagation needs one all of whose weights are trained.
        variant: names the published step.
        rows: the batch.
    """

    def __init__(self, session: PyTorchSession, variant: Variant, rows: Sequence[Row]) -> None:
        self.session = session
        trained = by_address(session.space.blocks)
        weights = [w for w in session.model.parameters() if w.data_ptr() in trained]
        problem = published.Problem(session.model, partial(session.scorer.mean_loss, rows), weights)
        self.step = published.STEPS[variant.published](problem)
        self.passes = self.step.passes
        self.arrays = [w.data for w in problem.weights]
        self.is_warm = False
        self.moves: float | None = None

    def before(self) -> None:
        self.session.space.settle()
        if not self.is_warm:
            self()
            self.after()
            self.is_warm = True

    def __call__(self) -> None:
        self.step.step()

    def after(self) -> None:
        for array, w in zip(self.arrays, self.step.weights, strict=True):
            if w.data_ptr() != array.data_ptr():
                array.copy_(w.data)
                w.data = array


class BareStep:
    """Inference: one forward pass.

    Args:
        forward: makes it.
    """

    def __init__(self, forward: Callable[[], None]) -> None:
        self.forward, self.passes = forward, 1
        self.moves: float | None = None

    def before(self) -> None:
        self()  # other work may have given the memory of a recording back

    def __call__(self) -> None:
        self.forward()

    def after(self) -> None:
        pass


def step_of(session: PyTorchSession, setup: Setup, variant: Variant, rows: Sequence[Row]) -> Step:
    """The step of a variant, ready to be measured."""
    if variant.published:
        return PublishedStep(session, variant, rows)
    if variant.settings:
        return ZoplatStep(session, setup, variant, rows)
    return BareStep(bare(session, rows, variant.eager))


def bare(session: Any, rows: Sequence[Row], eager: bool = False) -> Callable[[], None]:
    """A forward pass with the weights as they are in the arrays, without any perturbation.

    Args:
        session: an opened model.
        rows: the batch.
        eager: whether a PyTorch session runs the model eagerly where it would replay a recording.
    """

    def forward() -> None:
        perturbation = session.space.perturbation
        session.space.perturb(ZERO)
        with nullcontext() if eager else session.together(nullcontext):
            session.forward(rows)
        session.space.perturb(perturbation)

    return forward


def peaks(session: PyTorchSession, work: Callable[[], None] | ZoplatStep, times: int = 3) -> tuple[int, int]:
    """(Peak bytes in use, bytes that the allocator holds in the end) after some work was done so many times.

    Both on the accelerator if there is one; else both are the peak of the process.
    """
    gc.collect()
    if session.target.type == "cuda":
        torch.cuda.empty_cache()
    if isinstance(work, ZoplatStep):
        reading = work.profiled(times)
    else:
        session.reset_peak()
        for _ in range(times):
            work()
        reading = session.memory()
    if reading.device_peak is None:
        return reading.host_peak, reading.host_peak
    return reading.device_peak, torch.cuda.memory_reserved()


def vocabulary(model: Any) -> int:
    """Size of a model's vocabulary."""
    return int(model.config.get_text_config().vocab_size)


def synchronize(kind: str) -> None:
    """Wait until a device has finished its work."""
    if kind == "cuda":
        torch.cuda.synchronize()
