"""Steps to measure: those of zoplat as a run makes them, and the published ones on the same model and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from bench import published
from bench.cases import Setup, Variant
from bench.models import SameBatch
from zoplat import ZERO, Row, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.device import Session
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner
from zoplat_devices.pytorch.session import PyTorchSession


class Step(Protocol):
    """A step, with preparation and clean-up that are not timed.

    Attributes:
        passes: forward passes of one call.
    """

    passes: int

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
        self.learner = Learner(config, session, strategy=variant.strategy)
        self.profiler = Profiler(session.memory, session.reset_peak)

    def before(self) -> None:
        self.session.space.time_phases(self.profiler.phase)
        self()

    def __call__(self) -> None:
        before = self.learner.progress.passes
        self.learner.advance(self.batches, self.profiler)
        self.passes = self.learner.progress.passes - before
        if self.learner.progress.skipped:
            raise ZoplatError(
                f"{self.variant.name}: a step was skipped, which would make it look cheap: {self.learner.skip_reason}"
            )

    def after(self) -> None:
        pass

    def peak(self) -> int:
        """Peak bytes in use during two steps."""
        self.session.reset_peak()
        self.profiler = Profiler(self.session.memory, self.session.reset_peak)
        self.before()
        self()
        reading = self.profiler.peak
        return reading.host_peak if reading.device_peak is None else reading.device_peak


class PublishedStep:
    """A published step on a session's model; `after` moves the result into the session's own arrays.

    Args:
        session: an opened model, all of whose weights are trained.
        variant: names the published step.
        rows: the batch.
    """

    def __init__(self, session: PyTorchSession, variant: Variant, rows: Sequence[Row]) -> None:
        self.session = session
        problem = published.Problem(session.model, partial(session.scorer.mean_loss, rows))
        self.step = published.STEPS[variant.published](problem)
        self.passes = self.step.passes
        self.arrays = [w.data for w in problem.weights]
        self.is_warm = False

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


def step_of(session: PyTorchSession, setup: Setup, variant: Variant, rows: Sequence[Row]) -> Step:
    """The step of a variant, ready to be measured."""
    return PublishedStep(session, variant, rows) if variant.published else ZoplatStep(session, setup, variant, rows)


def bare(session: Session, rows: Sequence[Row]) -> Callable[[], None]:
    """A forward pass with the weights as they are in the arrays, without any perturbation."""

    def forward() -> None:
        perturbation = session.space.perturbation
        session.space.perturb(ZERO)
        session.forward(rows)
        session.space.perturb(perturbation)

    return forward


def peak(session: PyTorchSession, work: Callable[[], None]) -> int:
    """Peak bytes in use during some work, on the accelerator if there is one, else of the process."""
    session.reset_peak()
    work()
    reading = session.memory()
    return reading.host_peak if reading.device_peak is None else reading.device_peak


def vocabulary(model: Any) -> int:
    """Size of a model's vocabulary."""
    return int(model.config.get_text_config().vocab_size)


def synchronize(kind: str) -> None:
    """Wait until a device has finished its work."""
    if kind == "cuda":
        torch.cuda.synchronize()
