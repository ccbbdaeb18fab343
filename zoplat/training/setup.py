"""What a run needs before its model is opened, and what it would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.device import Rehearsal, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.model_spec import ModelSpec
from zoplat.core.notices import Notice, counted, notice, unheard
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.paths import check_writable
from zoplat.registry import missing
from zoplat.tasks import commands, data
from zoplat.tasks.metrics import ROW_METRICS, judge_of, metric_of
from zoplat.tasks.task import Task
from zoplat.training.directory import RunDirectory
from zoplat.training.dry_run import passes_of_first_step
from zoplat.training.objective import Objective
from zoplat.training.readings import check_energy

SAMPLE = 50
"""Rows of each split that are encoded to try out the model's tokenizer; half of them the longest ones."""


def check(
    config: RunConfig, out: Path | None = None, resume: bool = False, rehearse: bool = False
) -> dict[str, data.Rows]:
    """Everything that `train` can refuse before it opens a model.

    Args:
        config: the settings.
        out: the run directory; None for a new one under runs/.
        resume: whether a run in `out` is to be continued.
        rehearse: also look for the model and what of it is to be trained, and encode some rows, as far as that goes
            without reading weights.

    Returns:
        The rows of each split, for `open_run`.

    Raises:
        ZoplatError: what is wrong, and what to do.
    """
    if resume and out is None:
        raise ZoplatError("--resume goes on with the run in --out DIR; give that too. `zoplat list runs` shows runs.")
    if out:
        check_out(RunDirectory(out), config, resume)
    check_writable(out or Path("runs"), "--out")
    check_device(config)
    check_commands(config)
    if config.max_joules:
        check_energy()
    splits = rows_of(config, notice)
    check_batch(config, len(splits["train"]))
    check_budget(config)
    if rehearse and (reader := config.device.reader(spec_of(config))):
        for split, rows in splits.items():
            sample = _sample(rows)
            of = split if len(sample) == len(rows) else f"a sample of {split}"
            PromptEncoder(config, cast(Session, reader)).rows(sample, of)
    return splits


def check_batch(config: RunConfig, most: int) -> None:
    """Raise ZoplatError for a batch of more rows than there are."""
    if config.batch_size > most:
        raise ZoplatError(
            f"batch_size {config.batch_size} is more than the {counted(most, 'training row')}. "
            "Use a smaller --batch-size."
        )


def check_budget(config: RunConfig) -> None:
    """Raise ZoplatError where a step takes more forward passes than the run may make, as far as that is known."""
    passes = passes_of_first_step(config.estimator, config.batch_size) if config.max_passes else 0
    if passes > (config.max_passes or 0):
        raise ZoplatError(
            f"max_passes {config.max_passes} is less than a step of '{config.estimator_name}' takes: {passes}. "
            "Use a larger --max-passes."
        )


def _sample(rows: data.Rows) -> data.Rows:
    """Some rows of a split: the longest ones, and others from all over it."""
    by_length = sorted(range(len(rows)), key=lambda index: -len(str(rows[index][1])))
    chosen = {*by_length[: SAMPLE // 2], *range(0, len(rows), max(1, 2 * len(rows) // SAMPLE))}
    return [rows[index] for index in sorted(chosen)]


def check_out(directory: RunDirectory, config: RunConfig, resume: bool) -> None:
    """Raise ZoplatError where a run can't be begun in a directory, or the one there can't go on with these settings."""
    if not directory.config.exists():
        return
    if not resume:
        raise ZoplatError(f"--out {directory.path} holds a run already. Add --resume, or choose another place.")
    directory.check_resumable(config)
    directory.read_journal()


def rows_of(config: RunConfig, notice: Notice = unheard) -> dict[str, data.Rows]:
    """The rows of the task by split; each was formatted once, so that malformed ones are found here.

    Args:
        config: the settings.
        notice: is called with what the user should know about the rows.
    """
    task = data.find(config.task)
    splits = data.load(task, config.task, Path(config.data) if config.data else None, config.limit, notice)
    if config.per_class:
        few, seed = config.per_class, derived_seed(config.seed, "rows")
        splits |= {split: data.of_each_class(task, splits[split], few, seed) for split in ("train", "dev")}
    for split, rows in splits.items():
        examples = [task.example(row, where) for where, row in rows]
        if task.classes and len(rows) > 1 and len({example.label for example in examples}) == 1:
            notice(f"all {len(rows)} rows of {split} have the label '{task.classes[examples[0].label]}'.")
        ends = [example for example in examples if task.generates and example.stop in example.right[0]]
        if ends:
            notice(
                f"{len(ends)} of {len(rows)} answers of {split} contain {ends[0].stop!r}, where a generated answer "
                "ends, so no model can give them whole. Set 'stop' in the file of the task to another text."
            )
    return splits


def preferred_strategy(config: RunConfig, session: Session | Rehearsal, rows: Sequence[Row]) -> str:
    """The evaluation strategy that a session prefers for the law of a run and its training rows."""
    tokens = config.read_at_once * sum(row.length for row in rows) / len(rows)
    return session.strategy_for(law_of(config.estimator), tokens)


def check_device(config: RunConfig) -> None:
    """Raise ZoplatError where the device can't be used here, or can't do what the task and the objective need."""
    if reason := missing(config.device):
        raise ZoplatError(reason)
    objective_of(config)
    if config.forgetting and "text loss" not in config.device.answers:
        raise ZoplatError(
            f"--forgetting needs the loss of plain text, which '{config.device_name}' does not give. Use --device cpu, "
            "for example, or leave it out."
        )


def check_commands(config: RunConfig) -> None:
    """Raise ZoplatError where the run would start a program or call a function that is not the user's own."""
    for name in (data.find(config.task).metric, config.objective):
        if commands.is_code(name):
            commands.require(name)


def objective_of(config: RunConfig) -> Objective:
    """What the run minimises; raises ZoplatError where task, objective and device don't fit."""
    task = data.find(config.task)
    if config.objective == "options" and task.generates:
        raise ZoplatError(f"Task '{config.task}' has no options to choose from. Use --objective tokens, or a metric.")
    if task.generates and "generation" not in config.device.answers:
        raise ZoplatError(f"Task '{config.task}' needs text to be written, which '{config.device_name}' can't do.")
    metric_of(task)
    if config.is_judged and "row losses" in config.estimator.asks:
        _check_row_scores(config, task)
    if judge := judge_of(config.objective):
        return Objective(judge=judge)
    return Objective(metric_of(task, config.objective) if config.is_judged else None, config.micro_batch_size)


def _check_row_scores(config: RunConfig, task: Task) -> None:
    """Raise ZoplatError where the objective is a score of a whole batch, and the method asks for that of each row."""
    if judge_of(config.objective) is None and metric_of(task, config.objective) in ROW_METRICS:
        return
    raise ZoplatError(
        f"'{config.estimator_name}' asks for the loss of each row, and --objective {config.objective} is one score of "
        "a whole batch. Leave it out, or use a metric that is a mean over rows, such as accuracy or exact-match."
    )


def spec_of(config: RunConfig) -> ModelSpec:
    """What the device needs to open the model of a run."""
    seed, names = derived_seed(config.seed, "init"), data.find(config.task).class_names
    return ModelSpec(config.model, config.tune, config.dtype, seed, config.head, len(names), config.base, names)
