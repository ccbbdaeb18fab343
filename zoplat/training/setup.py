"""A run's model, opened, and its rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.device import Device, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.model_spec import ModelSpec
from zoplat.evaluation.evaluate import evaluate
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.paths import check_writable
from zoplat.tasks import data
from zoplat.tasks.metrics import metric
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner


def ask(
    config: RunConfig, way: EvaluationProtocol, split: str = "test", session: Session | None = None
) -> dict[str, Any]:
    """The score of a model as it is, or as it stands in a session; see `evaluation.evaluate`."""
    check_device(config)
    rows = rows_of(config)
    return evaluate(config, session or config.device.open(spec_of(config)), rows, way, split)


def prepared(config: RunConfig) -> tuple[Session, Profiler, list[Row]]:
    """The model of a run, opened, and its training rows."""
    check_device(config)
    raw = rows_of(config)["train"]
    session, profiler = open_session(config.device, spec_of(config))
    return session, profiler, PromptEncoder(config, session).rows(raw)


def restored(directory: RunDirectory, config: RunConfig | None = None) -> tuple[RunConfig, Session]:
    """A finished or interrupted run at its newest checkpoint.

    Args:
        directory: of the run.
        config: its settings as a bundle has them, in the place of its own.

    Raises:
        ZoplatError: it has none.
    """
    from zoplat.config.layers import build, read_toml

    config = config or build([read_toml(directory.config)])
    check_device(config)
    session = config.device.open(spec_of(config))
    journal = journal_of(directory)
    learner = Learner(config, session)
    if journal is None or not directory.load(session, learner.states, len(journal.steps)):
        raise ZoplatError(
            f"{directory.path} has no checkpoint yet. `zoplat run --resume --out {directory.path}` goes on with it."
        )
    return config, session


def check(config: RunConfig, out: Path | None = None, resume: bool = False) -> dict[str, int]:
    """All that `train` would refuse before opening a model; returns the rows of each split."""
    if resume and out is None:
        raise ZoplatError("--resume goes on with the run in --out DIR; give that too. `zoplat list runs` shows runs.")
    if out:
        directory = RunDirectory(out)
        if directory.config.exists() and not resume:
            raise ZoplatError(f"--out {out} holds a run already. Add --resume, or choose another place.")
        if directory.config.exists():
            directory.check_unchanged(config)
            journal_of(directory)
    check_writable(out or Path("runs"), "--out")
    check_device(config)
    sizes = {split: len(rows) for split, rows in rows_of(config).items()}
    if config.batch_size > sizes["train"]:
        raise ZoplatError(
            f"batch_size {config.batch_size} is more than the {sizes['train']} training rows. "
            "Use a smaller --batch-size."
        )
    return sizes


def rows_of(config: RunConfig) -> dict[str, data.Rows]:
    """The rows of the task, each of which was made into an example once."""
    task = data.find(config.task)
    splits = data.load(task, config.task, Path(config.data) if config.data else None, config.limit)
    if config.per_class:
        few, seed = config.per_class, derived_seed(config.seed, "rows")
        splits |= {split: data.of_each_class(task, splits[split], few, seed) for split in ("train", "dev")}
    for rows in splits.values():
        for where, row in rows:
            task.example(row, where)
    return splits


def check_device(config: RunConfig) -> None:
    if reason := config.device.missing():
        raise ZoplatError(reason)
    objective_of(config)


def objective_of(config: RunConfig) -> Objective:
    """What the run descends; raises ZoplatError where task, objective and device don't fit."""
    task = data.find(config.task)
    if config.objective == "options" and task.generates:
        raise ZoplatError(f"Task '{config.task}' has no options to choose from. Use --objective tokens, or a metric.")
    if task.generates and "generation" not in config.device.answers:
        raise ZoplatError(f"Task '{config.task}' needs text to be written, which '{config.device_name}' can't do.")
    metric(task.metric)
    return Objective(metric(config.objective) if config.is_judged else None, config.micro_batch_size)


def spec_of(config: RunConfig) -> ModelSpec:
    seed, classes = derived_seed(config.seed, "init"), len(data.find(config.task).classes)
    return ModelSpec(config.model, config.tune, config.dtype, seed, config.head, classes, config.base)


def open_session(device: Device, spec: ModelSpec) -> tuple[Session, Profiler]:
    began = time.perf_counter()
    session = device.open(spec)
    profiler = Profiler(session.memory, session.reset_peak)
    profiler.book("open", time.perf_counter() - began)
    session.space.time_phases(profiler.phase)
    return session, profiler


def journal_of(directory: RunDirectory) -> Journal | None:
    """The journal so far; None before its header is whole."""
    path = directory.journal
    return Journal.read(path) if path.exists() and b"\n" in path.read_bytes() else None


def check_start(journal: Journal, session: Session, directory: RunDirectory) -> None:
    begun = journal.header
    if begun["noise"] != session.space.noise.name:
        raise ZoplatError(
            f"{directory.journal} was made with noise '{begun['noise']}'; this version makes "
            f"'{session.space.noise.name}'."
        )
    if begun["start_digest"] != session.digest():
        raise ZoplatError(
            f"{directory.path} began from other weights than the model has now: {begun['start_digest']} then, "
            f"{session.digest()} now. Versions then: {begun['versions']}."
        )
