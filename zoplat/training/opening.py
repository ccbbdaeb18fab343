"""The model of a run, opened, and its rows, encoded."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Device, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.model_spec import ModelSpec
from zoplat.core.notices import notice
from zoplat.evaluation.evaluate import evaluate
from zoplat.evaluation.predictions import by_length
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.tasks.data import Rows
from zoplat.training.batches import VERSION, Batches, batches_of
from zoplat.training.binding import bindings, check_bindings, rows_there
from zoplat.training.directory import RunDirectory
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.setup import check_device, objective_of, preferred_strategy, rows_of, spec_of
from zoplat.training.step import Learner

IDENTITY = ("model", "head", "base", "dtype", "restore", "rounding", "device", "versions", "threads")
"""Facts of a session that the answers of a run depend on."""


@dataclass
class OpenedRun:
    """A run whose model is open, before anything was computed.

    Attributes:
        config: its settings.
        objective: the loss that training minimises.
        session: the model.
        profiler: of the session.
        rows: encoded, by split.
        batches: the training rows in batches.
        start_digest: of the trained weights.
        bound: what the run is bound to, as the header of its journal has it.
    """

    config: RunConfig
    objective: Objective
    session: Session
    profiler: Profiler
    rows: dict[str, list[Row]]
    batches: Batches
    start_digest: str
    bound: dict[str, Any]

    @property
    def strategy(self) -> str:
        """The evaluation strategy that the session prefers for the law and the rows of this run."""
        return preferred_strategy(self.config, self.session, self.rows["train"])

    def header(self, strategy: str) -> dict[str, Any]:
        """The header of the run's journal: all that its answers depend on, and what it is bound to."""
        return {**self.identity(strategy), **self.bound}

    def identity(self, strategy: str) -> dict[str, Any]:
        """Everything, settings and rows aside, that the answers of a run depend on."""
        return {
            **{name: self.session.facts.get(name) for name in IDENTITY},
            "noise": self.session.space.noise.name,
            "strategy": strategy,
            "batches": VERSION,
            "seed": self.config.seed,
            "estimator": self.config.estimator_name,
            "start_digest": self.start_digest,
        }

    def measure_inference(self) -> None:
        """Measure the peak of inference alone: one forward pass on the longest rows of each split."""
        with self.profiler.phase("inference"):
            for split, rows in self.rows.items():
                longest = by_length(rows, at_once(self.config, split))[0]
                self.session.forward([rows[i] for i in longest])


def at_once(config: RunConfig, split: str) -> int:
    """Rows of a split in one forward pass."""
    return config.read_at_once if split == "train" else config.scored_at_once


def open_run(config: RunConfig, checked: dict[str, Rows] | None = None) -> OpenedRun:
    """Open the model of a run and encode its rows.

    Args:
        config: the settings.
        checked: the rows that `check` returned, which are taken out, so that no text is held while the run trains; they
            are read when None.
    """
    objective = objective_of(config)
    raw = rows_of(config) if checked is None else {split: checked.pop(split) for split in [*checked]}
    session, profiler = open_session(config.device, spec_of(config))
    objective.check(session)
    rows = {split: PromptEncoder(config, session).rows(some, split) for split, some in raw.items()}
    batches = batches_of(config, rows["train"])
    return OpenedRun(
        config, objective, session, profiler, rows, batches, session.digest(), bindings(config, session, raw)
    )


def open_session(device: Device, spec: ModelSpec) -> tuple[Session, Profiler]:
    """A model and its profiler, which has the phase "open" already."""
    began = time.perf_counter()
    session = device.open(spec)
    read = weakref.proxy(session)  # the space keeps the profiler, which must not keep the model alive after its run
    profiler = Profiler(lambda: read.memory(), lambda: read.reset_peak(), lambda: read.ledger())
    profiler.add_past("open", time.perf_counter() - began)
    session.space.time_phases(profiler.phase)
    return session, profiler


def prepared(config: RunConfig) -> tuple[Session, Profiler, list[Row]]:
    """The model of a run, its profiler, and the training rows, encoded."""
    check_device(config)
    raw = rows_of(config)["train"]
    session, profiler = open_session(config.device, spec_of(config))
    return session, profiler, PromptEncoder(config, session).rows(raw, "train")


def restored(
    directory: RunDirectory, config: RunConfig | None = None, reads_rows: bool = False
) -> tuple[RunConfig, Session]:
    """The settings and the model of a run at its newest checkpoint.

    Args:
        directory: of the run, finished or interrupted.
        config: used in place of its config.toml; of a run inside a bundle.
        reads_rows: whether its rows must still be those that it began with.

    Raises:
        ZoplatError: it has no checkpoint, or began with other settings, another model or other rows.
    """
    is_other_device, config = config is not None, config or directory.read_config()
    check_device(config)
    session = config.device.open(spec_of(config))
    journal = directory.read_journal()
    if journal:
        now = bindings(config, session, rows_there(config) if reads_rows else None)
        check_bindings(journal.header, now, str(directory.path), is_other_device)
    learner = Learner(config, session)
    if journal is None or not directory.checkpoints.load(session, learner.states, len(journal.steps)):
        raise ZoplatError(
            f"{directory.path} has no checkpoint yet. `zoplat run --resume --out {directory.path}` goes on with it."
        )
    return config, session


def score_model(
    config: RunConfig, protocol: EvaluationProtocol, split: str = "test", session: Session | None = None
) -> dict[str, Any]:
    """The score of a model without training it, as `evaluation.evaluate` gives it.

    Args:
        config: the settings.
        protocol: zero-shot, few-shot, calibrated, or by a linear probe.
        split: which rows.
        session: a model that is open; that of the settings when None.
    """
    check_device(config)
    rows = rows_of(config, notice)
    return evaluate(config, session or config.device.open(spec_of(config)), rows, protocol, split)
