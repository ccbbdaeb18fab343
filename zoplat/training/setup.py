"""What a run needs before its model is opened, and what it would refuse."""

from __future__ import annotations

from pathlib import Path

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat.paths import check_writable
from zoplat.registry import missing
from zoplat.tasks import commands, data
from zoplat.tasks.metrics import metric
from zoplat.training.directory import RunDirectory
from zoplat.training.objective import Objective


def check(config: RunConfig, out: Path | None = None, resume: bool = False) -> dict[str, int]:
    """Everything that `train` can refuse before it opens a model.

    Args:
        config: the settings.
        out: the run directory; None for a new one under runs/.
        resume: whether a run in `out` is to be continued.

    Returns:
        Number of rows of each split.

    Raises:
        ZoplatError: what is wrong, and what to do.
    """
    if resume and out is None:
        raise ZoplatError("--resume goes on with the run in --out DIR; give that too. `zoplat list runs` shows runs.")
    if out:
        _check_out(RunDirectory(out), config, resume)
    check_writable(out or Path("runs"), "--out")
    check_device(config)
    check_commands(config)
    sizes = {split: len(rows) for split, rows in rows_of(config).items()}
    if config.batch_size > sizes["train"]:
        raise ZoplatError(
            f"batch_size {config.batch_size} is more than the {sizes['train']} training rows. "
            "Use a smaller --batch-size."
        )
    return sizes


def _check_out(directory: RunDirectory, config: RunConfig, resume: bool) -> None:
    if not directory.config.exists():
        return
    if not resume:
        raise ZoplatError(f"--out {directory.path} holds a run already. Add --resume, or choose another place.")
    directory.check_unchanged(config)
    directory.read_journal()


def rows_of(config: RunConfig) -> dict[str, data.Rows]:
    """The rows of the task by split; each was formatted once, so that malformed ones are found here."""
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
    """Raise ZoplatError where the device can't be used here, or can't do what the task and the objective need."""
    if reason := missing(config.device):
        raise ZoplatError(reason)
    objective_of(config)


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
    metric(task.metric)
    return Objective(metric(config.objective) if config.is_judged else None, config.micro_batch_size)


def spec_of(config: RunConfig) -> ModelSpec:
    """What the device needs to open the model of a run."""
    seed, classes = derived_seed(config.seed, "init"), len(data.find(config.task).classes)
    return ModelSpec(config.model, config.tune, config.dtype, seed, config.head, classes, config.base)
