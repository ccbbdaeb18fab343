"""zoplat plan: memory and time of a run before it."""

from typing import Any

import click

from zoplat.cli.options import BUDGET, OUTPUT, PARTS, PLUGIN, SETTINGS, WORK, Sectioned, as_settings, echo_json, flags


@click.command(cls=Sectioned)
@flags(PARTS, WORK, BUDGET, SETTINGS)
@click.option("--memory", metavar="SIZE", help="What the run may take, such as 8GiB.  [default: the profile's]")
@click.option(
    "--profile", metavar="NAME|FILE.toml", help="The machine that is meant, such as rtx-3060, h100 or a file."
)
@click.option("--tokens", type=click.IntRange(1), help="Rows of this many tokens, in place of those of the task.")
@click.option("--alone", is_flag=True, help="Only the mode that the flags ask for, beside no other.")
@PLUGIN
@OUTPUT
@click.pass_context
def plan(
    context: click.Context,
    /,
    memory: str | None,
    profile: str | None,
    tokens: int | None,
    alone: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Say what memory and time a run takes and which modes fit, from the model's configuration alone.

    Exit status 0 if the run fits, 1 if it does not, 2 if that is not known.
    """
    from zoplat.calls.plan import plan as planned
    from zoplat.cli.plan_display import print_plan

    found = planned(memory=memory, profile=profile, tokens=tokens, alone=alone, **as_settings(given))
    if as_json:
        echo_json(found.plan.to_json())
    else:
        print_plan(found)
    context.exit(found.plan.exit_status)
