"""Flags that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zoplat.cli.terminal import QUIET
from zoplat.config import defaults
from zoplat.core.errors import ZoplatError
from zoplat.core.permissions import COMMANDS, REMOTE_CODE, grant, withdraw
from zoplat.core.plain_json import to_text

WARNING = "--trust-remote-code: Python that comes with the model runs as you, and may read, change and send your files."

Command = TypeVar("Command", bound=Callable[..., Any])

ESTIMATOR = click.option(
    "--estimator", metavar="NAME", help=f"Method; `zoplat list estimators`.  [default: {defaults.ESTIMATOR}]"
)
SEED = click.option("--seed", type=int, help="Seed of the run.  [default: 0]")
PARTS = [
    ESTIMATOR,
    click.option("--sampler", metavar="NAME", help="Law of the perturbations, in place of the method's."),
    click.option("--step-rule", metavar="NAME", help="Step-size rule, in place of the method's."),
    click.option("--device", metavar="NAME", help="auto, cpu, cuda, mps, reference, …  [default: auto]"),
]
WORK = [
    click.option("--model", metavar="ID|DIR|FILE.gguf", help="Default: packaged:smollm2-135m, no network."),
    click.option("--task", metavar="NAME|FILE.toml", help="`zoplat list tasks`.  [default: sentiment, packaged]"),
    click.option(
        "--data", type=click.Path(path_type=Path), help="Folder with train, dev and test .jsonl, .csv or .parquet."
    ),
    click.option("--base", metavar="plain|int8|int4", help="How weights of linear layers are stored."),
    click.option("--head", metavar="KIND", help="causal, masked, seq2seq, classifier or auto."),
    click.option("--template", metavar="KIND", help="How a row becomes text: prompt, plain, chat or auto."),
    click.option("--tune", metavar="full|lora|…|REGEX", help="Which weights are trained: full, lora, prefix, head, …"),
    click.option("--dtype", metavar="TYPE", help="float32, bfloat16, float16 or auto."),
    click.option("--limit", type=int, help="At most this many rows of each split."),
    click.option("--per-class", type=int, help="Of train and dev, this many rows of every class."),
]
BATCHES = [
    click.option("--batch-size", type=int, help="Rows of a batch."),
    click.option("--micro-batch-size", type=int, help="Rows in one forward pass.  [default: all]"),
    click.option("--eval-batch-size", type=int, help="Rows in one pass where rows are scored.  [default: as above]"),
]
STEP = [
    click.option("--objective", metavar="NAME", help="options, tokens, a metric, module:function or command:PROGRAM."),
    *BATCHES,
    click.option("--lr", type=float, help="Step size η (rule.lr)."),
    click.option("--eps", type=float, help="Smoothing radius ε."),
    click.option("--queries", type=int, help="Directions per step."),
    SEED,
]
BUDGET = [
    click.option("--steps", type=int, help="End after this many steps."),
    click.option("--max-passes", type=int, help="End after this many forward passes."),
    click.option("--max-seconds", type=float, help="End after this much training time."),
    click.option("--max-tokens", type=int, help="End after this many tokens, over all forward passes."),
    click.option("--max-joules", type=float, help="End after this much energy, where the machine tells."),
    *STEP,
    click.option("--evaluate-every", type=int, help="Steps between evaluations on dev, each with a checkpoint."),
]

PARALLEL = click.option("--parallel", metavar="KIND", help="What processes share: data (rows) or queries (points).")
FORGETTING = click.option(
    "--forgetting", is_flag=True, default=None, help="Measure too what becomes of general text: loss, and divergence."
)


def _permit(permission: str, warning: str = "") -> Callable[[click.Context, click.Parameter, bool], None]:
    """What a flag does that gives a permission: to this command only."""

    def permit(context: click.Context, _: click.Parameter, is_given: bool) -> None:
        if is_given:
            grant(permission)
            context.call_on_close(lambda: withdraw(permission))
            if warning:
                click.echo(warning, err=True)

    return permit


TRUST = click.option(
    "--trust-remote-code",
    is_flag=True,
    expose_value=False,
    callback=_permit(REMOTE_CODE, WARNING),
    help="Run the Python that the model comes with, as you. Only for a source that you trust.",
)
ALLOW = click.option(
    "--allow-commands",
    is_flag=True,
    expose_value=False,
    callback=_permit(COMMANDS),
    help="Run programs and functions that somebody else's run, settings or task file names.",
)
SETTINGS = [
    click.option("-o", "options", multiple=True, metavar="PATH=VALUE", help="Any field of any part; may be repeated."),
    click.option("--preset", metavar="NAME", help="Settings of a publication; `zoplat list presets`."),
    click.option("--config", type=click.Path(path_type=Path), help="The same settings as a TOML file; flags win."),
    ALLOW,
    TRUST,
]
TUNE_TRIALS = click.option(
    "--tune-trials", type=click.IntRange(0), help="Search settings of each method: so many trials."
)
RETRY = click.option("--retry-failed", is_flag=True, help="Try again what failed.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say how many runs, passes and hours, and run nothing.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, all else on error.")
_QUIET = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=lambda context, option, is_given: context.meta.update({QUIET: is_given}),
    help="Print only errors and the result.",
)
SECTIONS = {
    "Matrix": ("estimators", "samplers", "step_rules", "tasks", "models", "tunes", "seeds"),
    "Search": ("tune_trials", "trial_passes", "tune_seed"),
    "Workers": ("join", "storage", "jobs", "retry_failed"),
    "Method": ("estimator", "sampler", "step_rule", "lr", "eps", "queries", "preset"),
    "Model": ("model", "base", "head", "tune", "dtype", "device"),
    "Task and rows": (
        "task",
        "data",
        "template",
        "limit",
        "per_class",
        "objective",
        "batch_size",
        "micro_batch_size",
        "eval_batch_size",
    ),
    "Budget": (
        "steps",
        "max_passes",
        "max_seconds",
        "max_tokens",
        "max_joules",
        "memory",
        "evaluate_every",
        "seed",
    ),
    "Several processes": ("parallel", "rank_timeout"),
    "Measurements": ("forgetting", "report_to"),
    "What is measured": ("suggest_eps", "agreement", "only_inference", "probe"),
    "Output": ("to", "beside"),
    "Recorders": ("memray", "snapshot"),
    "Any setting": ("options", "config"),
}
"""Title in the help of a command → the flags below it; a command's own flags come after them."""


class Sectioned(click.Command):
    """A command whose help has its flags in titled sections."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; "Options" has what `SECTIONS` does not name."""
        options = (one for one in self.get_params(context) if isinstance(one, click.Option))
        records = {str(option.name): option.get_help_record(context) for option in options}
        named = {name for names in SECTIONS.values() for name in names}
        rest = tuple(name for name in records if name not in named)
        for title, names in {**SECTIONS, "Options": rest}.items():
            if rows := [record for name in names if (record := records.get(name))]:
                with formatter.section(title):
                    formatter.write_dl(rows)


PLUGINS = "zoplat.plugins"
"""Key of the files among what a command's context knows."""


def _register(context: click.Context, option: click.Parameter, files: tuple[Path, ...]) -> None:
    """Register the parts of some files, before anything else is looked up."""
    if files:
        from zoplat.testing.target import register

        for file in files:
            register(file)
        context.meta[PLUGINS] = tuple(file.absolute() for file in files)


def plugin_files() -> tuple[Path, ...]:
    """The files that `--plugin` gave to this command, by their whole paths."""
    files: tuple[Path, ...] = click.get_current_context().meta.get(PLUGINS, ())
    return files


PLUGIN = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE.py",
    is_eager=True,
    expose_value=False,
    callback=_register,
    help="Use the parts of this file too, as if they were installed; may be repeated.",
)


def echo_json(value: Any) -> None:
    """Print one JSON value; numbers that are not finite are null."""
    click.echo(to_text(value))


def OUTPUT(command: Command) -> Command:  # noqa: N802  # it stands among options
    """Two flags that every command has: for programs that read its output, and for people who want less of it."""
    return _JSON(_QUIET(command))


def flags(*groups: list[Any]) -> Callable[[Command], Command]:
    """A decorator that adds groups of options to a command, in order."""

    def add(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


def as_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The flags as `resolve` takes them, the -o pairs as a table; raises ZoplatError for a pair without '='."""
    pairs = {}
    for pair in given.pop("options"):
        path, mark, value = pair.partition("=")
        if not mark or not path:
            raise ZoplatError(f"-o takes PATH=VALUE, got '{pair}'; for example -o sampler.rank=4.")
        pairs[path.strip()] = value.strip()
    return {**given, "options": pairs}
