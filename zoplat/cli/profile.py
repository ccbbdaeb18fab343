"""zoplat profile: time and memory of a few steps by phase, or a smoothing radius."""

from typing import Any

import click

from zoplat.cli.options import JSON, PARTS, SETTINGS, STEP, WORK, Sectioned, as_settings, echo_json, flags


@click.command(cls=Sectioned)
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Steps to measure, after one.")
@click.option("--suggest-eps", is_flag=True, help="Find a smoothing radius for this model, dtype and batch instead.")
@click.option("--agreement", is_flag=True, help="Compare each step's estimate with the true gradient instead.")
@click.option("--only-inference", is_flag=True, help="Forward passes alone, without a method: the yardstick.")
@click.option(
    "--probe", "probes", metavar="NAME,…", default="", help="Machine probes to read too; `zoplat list probes`."
)
@flags(PARTS, WORK, STEP, SETTINGS)
@JSON
def profile(
    steps: int, suggest_eps: bool, agreement: bool, only_inference: bool, probes: str, as_json: bool, **given: Any
) -> None:
    """Make a few steps and show where time and memory go; only the time is kept, for `zoplat plan`."""
    from zoplat.cli.display import print_agreement, print_profile, print_radii
    from zoplat.config.layers import resolve
    from zoplat.plan.kept import keep_seconds
    from zoplat.training import profiling
    from zoplat.training.agreement import agreement as compare
    from zoplat.training.batches import Batches
    from zoplat.training.opening import prepared
    from zoplat.training.setup import objective_of

    config = resolve({**as_settings(given), "steps": steps + 1})
    session, profiler, rows = prepared(config)
    batches, objective = Batches(rows, config.batch_size, config.seed), objective_of(config)
    if suggest_eps:
        found = profiling.suggest_eps(config, session, batches.at(0), objective)
        return echo_json({"status": "done", **vars(found)}) if as_json else print_radii(found)
    if agreement:
        compared = compare(config, session, profiler, batches, objective, steps)
        return echo_json(compared) if as_json else print_agreement(compared)
    names = [name.strip() for name in probes.split(",") if name.strip()]
    measured = profiling.profile(config, session, profiler, batches, objective, steps, names, only_inference)
    if not only_inference:
        keep_seconds(config, measured["seconds_a_step"])
    return echo_json(measured) if as_json else print_profile(measured)
