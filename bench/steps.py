"""Steps that can be measured: zoplat's as the engine makes them, the published ones on the same model and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from bench import published
from bench.cases import Setup, Way
from bench.models import Same
from zoplat import ZERO, Row, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.device import Session
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner
from zoplat_devices.pytorch.session import PyTorchSession


class Step(Protocol):
    """A step, and what stands around it untimed."""

    passes: int

    def before(self) -> None:
        """Bring everything into the state that it has within a run."""

    def __call__(self) -> None:
        """The step."""

    def after(self) -> None:
        """Leave the session to others."""


class Ours:
    """A step as the engine makes it, profiler included.

    Args:
        session: opened.
        setup, way: what is stepped, and how.
        rows: the batch.
    """

    def __init__(self, session: Session, setup: Setup, way: Way, rows: Sequence[Row]) -> None:
        settings = {"device": session.facts["device"], "tune": setup.tune, "dtype": setup.dtype, "lr": published.LR}
        config = resolve({**settings, **way.settings, "evaluate_every": 10**9})
        session.space.settle()
        self.session, self.way, self.batches, self.passes = session, way, Same(rows), 0
        self.learner = Learner(config, session, strategy=way.strategy)
        self.profiler = Profiler(session.memory, session.reset_peak)

    def before(self) -> None:
        self.session.space.time_phases(self.profiler.phase)
        self()

    def __call__(self) -> None:
        asked = self.learner.progress.passes
        for _ in range(self.way.steps):
            self.learner.advance(self.batches, self.profiler)
        self.passes = self.learner.progress.passes - asked
        if self.learner.progress.skipped:
            raise ZoplatError(f"{self.way.name}: a step could not be made and would seem cheap: {self.learner.skip_reason}")

    def after(self) -> None:
        pass

    def peak(self) -> int:
        """Most bytes in use during two steps."""
        self.session.reset_peak()
        self.profiler = Profiler(self.session.memory, self.session.reset_peak)
        self.before()
        self()
        reading = self.profiler.peak
        return reading.host_peak if reading.device_peak is None else reading.device_peak


class Peer:
    """A published step on a session's model; the session's arrays hold θ again after it.

    Args:
        session: opened, with all weights trained.
        way: names the step.
        rows: the batch.
    """

    def __init__(self, session: PyTorchSession, way: Way, rows: Sequence[Row]) -> None:
        self.session = session
        problem = published.Problem(session.model, partial(session.scorer.mean_loss, rows))
        self.made = published.STEPS[way.published](problem)
        self.passes = self.made.passes
        self.held = [w.data for w in problem.weights]
        self.is_warm = False

    def before(self) -> None:
        self.session.space.settle()
        if not self.is_warm:
            self()
            self.after()
            self.is_warm = True

    def __call__(self) -> None:
        self.made.step()

    def after(self) -> None:
        for held, w in zip(self.held, self.made.weights, strict=True):
            if w.data_ptr() != held.data_ptr():
                held.copy_(w.data)
                w.data = held


def made(session: PyTorchSession, setup: Setup, way: Way, rows: Sequence[Row]) -> Step:
    """A way as something to measure."""
    return Peer(session, way, rows) if way.published else Ours(session, setup, way, rows)


def bare(session: Session, rows: Sequence[Row]) -> Callable[[], None]:
    """A forward pass at whatever the arrays hold, no probe formed on the way."""

    def forward() -> None:
        space = session.space
        overlay, space.overlay = space.overlay, ZERO
        session.forward(rows)
        space.overlay = overlay

    return forward


def peak(session: PyTorchSession, work: Callable[[], None]) -> int:
    """Most bytes in use during some work, of the accelerator or else of the process."""
    session.reset_peak()
    work()
    reading = session.memory()
    return reading.host_peak if reading.device_peak is None else reading.device_peak


def vocabulary(model: Any) -> int:
    """Tokens that a model knows."""
    return int(model.config.get_text_config().vocab_size)


def finished(kind: str) -> None:
    """Wait for a device."""
    if kind == "cuda":
        torch.cuda.synchronize()
