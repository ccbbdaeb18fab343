"""zoplat profile: time and memory of a few steps by phase, or a smoothing radius."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from shlex import join
from typing import Any

import click

from zoplat.cli.options import OUTPUT, PARTS, SETTINGS, STEP, WORK, Sectioned, as_settings, echo_json, flags
from zoplat.cli.terminal import note
from zoplat.core.errors import ZoplatError


@click.command(cls=Sectioned)
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Steps to measure, after one.")
@click.option("--suggest-eps", is_flag=True, help="Find a smoothing radius for this model, dtype and batch instead.")
@click.option("--agreement", is_flag=True, help="Compare each step's estimate with the true gradient instead.")
@click.option("--only-inference", is_flag=True, help="Forward passes alone, without a method: the yardstick.")
@click.option(
    "--probe", "probes", metavar="NAME,…", default="", help="Machine probes to read too; `zoplat list probes`."
)
@click.option("--to", type=click.Path(path_type=Path), help="Folder for a report, with other modes measured beside.")
@click.option("--beside", metavar="NAME,…", default="", help="Further estimators for the report.")
@click.option("--memray", type=click.Path(path_type=Path), help="Record all allocations of the process with memray.")
@click.option("--snapshot", type=click.Path(path_type=Path), help="Record torch's allocator on a GPU, for its viewer.")
@flags(PARTS, WORK, STEP, SETTINGS)
@OUTPUT
def profile(
    steps: int,
    suggest_eps: bool,
    agreement: bool,
    only_inference: bool,
    probes: str,
    to: Path | None,
    beside: str,
    memray: Path | None,
    snapshot: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a few steps and show where time and memory go; only the time is kept, for `zoplat plan`.

    With --to, inference alone, backpropagation of all weights by AdamW, and of LoRA with checkpointing are measured on
    the same batches, each in a process of its own, and a report is written: HTML, Markdown, figures and data.
    """
    from zoplat.cli.display import print_agreement, print_profile, print_radii
    from zoplat.config.layers import resolve
    from zoplat.planning.kept import keep_seconds
    from zoplat.training import profiling
    from zoplat.training.agreement import agreement as compare
    from zoplat.training.batches import batches_of
    from zoplat.training.opening import prepared
    from zoplat.training.setup import objective_of

    settings = {**as_settings(given), "steps": steps + 1}
    if to:
        return _report(settings, steps, _names(beside), to, as_json)
    if beside:
        raise ZoplatError("--beside is for the report. Add --to FOLDER.")
    config = resolve(settings)
    with _memray(memray):
        session, profiler, rows = prepared(config)
        batches, objective = batches_of(config, rows), objective_of(config)
        if suggest_eps:
            found = profiling.suggest_eps(config, session, batches.at(0), objective)
            return echo_json({"status": "done", **vars(found)}) if as_json else print_radii(found)
        if agreement:
            compared = compare(config, session, profiler, batches, objective, steps)
            return echo_json(compared) if as_json else print_agreement(compared)
        with session.snapshot(snapshot) if snapshot else nullcontext():
            measured = profiling.profile(
                config, session, profiler, batches, objective, steps, _names(probes), only_inference
            )
    if not (only_inference or memray or snapshot):
        keep_seconds(config, measured["seconds_a_step"])
    return echo_json(measured) if as_json else print_profile(measured)


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _report(settings: dict[str, Any], steps: int, beside: list[str], to: Path, as_json: bool) -> None:
    """Measure the modes and write the report."""
    from zoplat.paths import check_writable
    from zoplat.planning.measured import measured
    from zoplat.report.profile import write_profile

    check_writable(to, "--to")
    cases = [*measured(settings, steps, beside, note)]
    if not cases[1]["profile"]:
        raise ZoplatError(f"{cases[1]['name']} could not be measured: {cases[1]['reason']}")
    files = write_profile(cases, join(["zoplat", *sys.argv[1:]]), to)
    if as_json:
        return echo_json({"status": "done", "files": [str(file) for file in files], "cases": cases})
    return click.echo("\n".join(map(str, files)))


def _memray(file: Path | None) -> AbstractContextManager[Any]:
    """The recorder of memray; nothing where no file is named."""
    if file is None:
        return nullcontext()
    try:
        from memray import Tracker
    except ImportError:
        raise ZoplatError("--memray needs a package that is not installed: pip install memray") from None
    if file.exists():
        raise ZoplatError(f"--memray {file} is there already. Name a file that is not.")
    tracker: AbstractContextManager[Any] = Tracker(str(file), native_traces=True)
    return tracker
