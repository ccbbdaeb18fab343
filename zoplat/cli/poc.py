"""zoplat poc: go or no-go for a model, data and a device, by short runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.compare import names_in
from zoplat.cli.mistakes import explained
from zoplat.cli.options import (
    BUDGET,
    DRY_RUN,
    ESTIMATOR,
    OUTPUT,
    PARTS,
    PLUGIN,
    RETRY,
    SETTINGS,
    TUNE_TRIALS,
    WORK,
    Sectioned,
    as_settings,
    echo_json,
    flags,
    plugin_files,
)
from zoplat.cli.terminal import echo, notes
from zoplat.config.defaults import TRIED
from zoplat.core.errors import ZoplatError

if TYPE_CHECKING:
    from zoplat.comparison.study import Study

STATUS = {"go": 0, "no-go": 1, "can't tell": 2}
"""Verdict → exit status."""
SHORT = [flag for group in (PARTS, WORK, BUDGET[1:2] + BUDGET[5:], SETTINGS) for flag in group if flag is not ESTIMATOR]
PLAN = [
    click.option("--estimators", metavar="NAME,…", help=f"Methods to try.  [default: {','.join(TRIED)}]"),
    click.option(
        "--shots", type=click.IntRange(0), default=8, show_default=True, help="Examples of few-shot; 0: none."
    ),
    click.option("--no-backpropagation", is_flag=True, help="Leave LoRA by backpropagation out."),
    TUNE_TRIALS,
    click.option("--full-passes", type=click.IntRange(1), help="Passes of a full run.  [default: 40000]"),
    click.option("--full-steps", type=click.IntRange(1), help="Steps of a full run, in place of passes."),
    click.option("--max-hours", type=click.FloatRange(0, min_open=True), help="That a full run may take."),
    click.option("--price-per-hour", type=click.FloatRange(0), help="Of the machine, for the costs of a full run."),
]
OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/poc"), show_default=True, help="Where all goes."
)


@click.command(cls=Sectioned)
@flags(SHORT, PLAN, [OUT, RETRY, DRY_RUN, PLUGIN, OUTPUT])
def poc(
    shots: int,
    no_backpropagation: bool,
    full_passes: int | None,
    full_steps: int | None,
    max_hours: float | None,
    price_per_hour: float | None,
    out: Path,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Go or no-go for a model, data and a device: short runs, a verdict, and one page for who decides.

    Tries zero-shot, solved examples in the prompt, two methods, and LoRA by backpropagation where it fits, each
    training with --max-passes (600), and says what a full run would take. An interrupted one goes on with the same
    command. Writes poc.html, poc.md and poc.json into --out.

    Exit status: 0 go, 1 no-go, 2 can't tell, or a request that can't be met.
    """
    from zoplat.calls.compare import made
    from zoplat.comparison.poc import FULL_PASSES, Plan, backpropagation_study, methods_study
    from zoplat.comparison.poc import poc as try_out
    from zoplat.report.poc import as_text, write

    if full_passes and full_steps:
        raise ZoplatError("Give --full-passes or --full-steps, not both.")
    plan = Plan(full_passes or FULL_PASSES, full_steps, price_per_hour, max_hours)
    methods = methods_study(out, *_settings(given), shots, plugin_files())
    backpropagation = None if no_backpropagation else backpropagation_study(out, methods)
    if dry_run:
        _forecast([methods, *([backpropagation] if backpropagation else [])], as_json)
        return
    try:
        say = notes()
        found = try_out(out, methods, backpropagation, plan, lambda study: made(study, 1, retry_failed, say))
        written = write(found)
    except Exception as problem:
        known = explained(problem)
        raise (ZoplatError(str(known)) if known else problem) from problem  # 1 would mean no-go
    if as_json:
        echo_json(found.to_json())
    else:
        echo(as_text(found), end=False)
        click.echo(f"\nFor who decides: {written[0]}")
    raise SystemExit(STATUS[found.decision.verdict])


def _settings(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the runs, and what belongs to the matrix."""
    names, seed = given.pop("estimators"), given.pop("seed")
    own = {"estimators": names and names_in(names), "tune_trials": given.pop("tune_trials")}
    settings = {name: value for name, value in as_settings(given).items() if value not in (None, {})}
    return settings, {**own, "seeds": None if seed is None else (seed,)}


def _forecast(studies: "list[Study]", as_json: bool) -> None:
    """Print what the studies will take."""
    from zoplat.comparison.dry_run import dry_run

    found: dict[str, dict[str, Any]] = {}
    for number, study in enumerate(studies):
        try:
            found[study.folder.name] = dry_run(study, 1)
        except ZoplatError as problem:
            if not number:
                raise
            found[study.folder.name] = {"not possible": str(problem)}
    if as_json:
        echo_json(found)
        return
    for name, own in found.items():
        click.echo(f"{name}\n" + "".join(f"  {key}: {value}\n" for key, value in own.items()), nl=False)
