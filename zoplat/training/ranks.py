"""Several processes that make one run: rank 0 is the run, the others help it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoplat.config.parts import setting_fields
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.exchange import Ended, Exchange
from zoplat.core.losses import SIDE_TERMS
from zoplat.core.plain_json import to_text, with_numbers
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal
from zoplat.training.opening import OpenedRun, open_run
from zoplat.training.progress import Progress
from zoplat.training.setup import check_commands, check_device
from zoplat.training.step import Learner
from zoplat.training.summary import Summary

ONE_BY_ONE = {"batched": "sequential", SIDE_TERMS["batched"]: SIDE_TERMS["sequential"]}
"""Strategy → the one that computes the same points one at a time, so that a loss does not depend on its neighbours."""
SAME = ("start_digest", "noise", "strategy", "seed", "dtype", "restore", "rounding", "settings", "rows", "metric")
"""What the headers of all ranks have in common; versions, threads and kinds of processors may differ."""


def launched_ranks() -> int:
    """How many processes a launcher has started, by the variables that torchrun and accelerate set; 1 without one."""
    is_launched = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return int(os.environ["WORLD_SIZE"]) if is_launched else 1


def is_helper() -> bool:
    """Whether this process is a rank other than 0, which prints and writes nothing."""
    return launched_ranks() > 1 and int(os.environ["RANK"]) > 0


def open_exchange(config: RunConfig, seconds: float) -> Exchange | None:
    """The exchange with the other ranks; None where a launcher has started no others.

    Raises:
        ZoplatError: the device has none.
    """
    if launched_ranks() == 1:
        return None
    exchange = config.device.exchange(seconds)
    if exchange is None:
        raise ZoplatError(
            f"Device '{config.device_name}' can't exchange numbers between {launched_ranks()} processes. Use --device "
            "cpu or cuda, or start one process."
        )
    return exchange


def for_ranks(config: RunConfig, size: int) -> RunConfig:
    """The settings of a run whose steps `size` ranks make together.

    Raises:
        ZoplatError: they can't be shared.
    """
    if config.parallel == "none":
        if size == 1:
            return config
        config = replace(config, parallel="data")
    if "gradient" in config.estimator.asks:
        raise ZoplatError(
            f"'{config.estimator_name}' asks for gradients by backpropagation, as large as the weights; ranks "
            "exchange numbers only. Use one process, or a method of forward passes."
        )
    if "row losses" in config.estimator.asks:
        raise ZoplatError(
            f"'{config.estimator_name}' asks for the loss of each row, which several processes can't share yet. Use "
            "one process, or another method."
        )
    return _for_data(config, size) if config.parallel == "data" else _for_queries(config)


def _for_data(config: RunConfig, size: int) -> RunConfig:
    if config.is_judged and size > 1:
        raise ZoplatError(
            f"--objective {config.objective} is a score of a whole batch, which can't be put together from its parts. "
            "Use --parallel queries."
        )
    if config.batch_size % size:
        raise ZoplatError(
            f"--batch-size {config.batch_size} can't be divided among {size} ranks. Use a multiple of {size}, or "
            "--parallel queries."
        )
    return config


def _for_queries(config: RunConfig) -> RunConfig:
    if "restore" not in [field.name for field in setting_fields(config.device)]:
        return config
    device: Any = config.device
    if device.restore == "auto":
        return replace(config, device=replace(device, restore="exact"))
    if device.restore == "in-place":
        raise ZoplatError(
            "--parallel queries needs the weights of each point to be free of the points before it, and "
            "restore=in-place adds and subtracts all of them, which rounds. Use -o device.restore=exact, or "
            "--parallel data."
        )
    return config


def strategy_of(opened: OpenedRun, strategy: str) -> str:
    """The evaluation strategy where points are shared; raises ZoplatError where a device can't compute them apart."""
    if opened.config.parallel != "queries":
        return strategy
    space, found = opened.session.space, ONE_BY_ONE.get(strategy, strategy)
    if space.restore != "exact" and found == "sequential":
        raise ZoplatError(
            f"--parallel queries needs exact restore, which '{opened.config.device_name}' does not have here. "
            "Use --parallel data, or another --device."
        )
    return found


def meet(exchange: Exchange, learner: Learner, opened: OpenedRun) -> None:
    """Check that all ranks have opened the same model, and the same rows with the same settings."""
    header = opened.header(learner.strategy)
    settings = {k: v for k, v in header["settings"].items() if k not in ("model", "data", "task")}  # places
    common = {name: header.get(name) for name in SAME} | {"settings": settings}
    for name, value in common.items():
        exchange.agree(f"{name.replace('_', ' ')} of the run", json.dumps(value, sort_keys=True))


def agree_on_weights(exchange: Exchange, session: Session, step: int) -> None:
    """Check that all ranks have the same weights; they are settled."""
    exchange.agree(f"digest of the weights after {step} steps", session.digest())


def is_over_by_count(progress: Progress, config: RunConfig) -> bool:
    """Whether the budgets that all ranks count alike are used up; of time and energy only rank 0 knows."""
    return replace(progress, seconds=0.0, joules=0.0).is_over(config)


def close(exchange: Exchange, session: Session, learner: Learner) -> None:
    """On every rank, after the last step: the weights are θ, and the same.

    A rank that could not know that the run would end has begun another step, and has moved its weights in place.
    """
    session.space.settle()
    if session.space.restore == "exact" or is_over_by_count(learner.progress, learner.config):
        agree_on_weights(exchange, session, learner.progress.step)


def check_ranks(journal: Journal | None, config: RunConfig, size: int) -> None:
    """Raise ZoplatError where a run that shares rows is gone on with another number of ranks: its parts are others."""
    before = journal.header.get("ranks") if journal else None
    if config.parallel == "data" and before not in (None, size):
        raise ZoplatError(
            f"The run was begun with {before} ranks, and there are {size}: the parts of its batches would be others, "
            f"and so the last bits of its losses. Start {before}. With --parallel queries the number is free."
        )


def check_records(exchange: Exchange, journal: Journal | None) -> None:
    """On every rank, see that rank 0 has the longest journal: a launcher may start it on another machine than before.

    Args:
        exchange: the ranks.
        journal: that this rank has in a run directory of the same name; None where there is none.

    Raises:
        RunFailed: another rank has more steps on record than rank 0; on all ranks.
    """
    steps = [int(row[0]) for row in exchange.gather([float(len(journal.steps) if journal else 0)])]
    if max(steps) > steps[0]:
        exchange.is_over = True
        rank = steps.index(max(steps))
        raise RunFailed(
            f"Rank {rank} of {exchange.size} has {steps[rank]} steps of this run on record, and rank 0 has {steps[0]}: "
            "it is on another machine than when the run began. torchrun gives rank 0 to the machine whose address "
            "(--local-addr) comes first as text. Copy the run directory there, or start the machines in another order."
        )


@contextmanager
def failing_together(exchange: Exchange | None) -> Iterator[None]:
    """What fails in here ends the other ranks too, so that none of them waits for this one."""
    try:
        yield
    except Exception:
        if exchange:
            exchange.fail()
        raise


def help_out(config: RunConfig, exchange: Exchange, out: Path | None) -> tuple[Summary, Path]:
    """Make the steps of a run as a rank other than 0.

    Args:
        config: the settings.
        exchange: the ranks.
        out: the run directory that rank 0 goes on with if it is there; None where it begins a new one.

    Returns:
        The summary of the run, and its directory as rank 0 names it.
    """
    check_device(config)
    check_commands(config)
    try:
        exchange.gather([])  # rank 0 has the run directory, and the run is not finished yet
        _make_steps(config, exchange, out)
    except Ended:
        pass
    found = json.loads(exchange.share())
    return Summary.from_json(with_numbers(found["summary"])), Path(found["directory"])


def tell(exchange: Exchange | None, summary: Summary, directory: Path) -> None:
    """As rank 0, tell the others what came out."""
    if exchange:
        exchange.share(to_text({"summary": summary.to_json(), "directory": str(directory)}).encode())


def _make_steps(config: RunConfig, exchange: Exchange, out: Path | None) -> None:
    """Open the model, catch up with the journal, and follow."""
    opened = open_run(config)
    check_records(exchange, RunDirectory(out).read_journal() if out else None)
    recorded = exchange.share()
    strategy = str(_journal(recorded).header["strategy"]) if recorded else strategy_of(opened, opened.strategy)
    learner = Learner(
        config, opened.session, opened.objective, strategy=strategy, tokens_of=opened.batches.tokens, exchange=exchange
    )
    meet(exchange, learner, opened)
    for record in _journal(recorded).steps if recorded else []:
        learner.replay(record)
    follow(learner, opened, exchange)


def follow(learner: Learner, opened: OpenedRun, exchange: Exchange) -> None:
    """Make steps until rank 0 ends the run."""
    try:
        while True:
            step = learner.progress.step
            if is_over_by_count(learner.progress, learner.config):
                exchange.gather([])  # the end
            if step and learner.is_checkpoint_step:
                agree_on_weights(exchange, opened.session, step)
            learner.advance(opened.batches, opened.profiler)
    except Ended:
        close(exchange, opened.session, learner)


def _journal(text: bytes) -> Journal:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.jsonl")
        path.write_bytes(text)
        return Journal.read(path)
