"""zoplat run: one training run."""

from pathlib import Path
from typing import Any

import click

from zoplat.cli.options import BUDGET, JSON, PARTS, SETTINGS, WORK, as_settings, echo_json, flags
from zoplat.core.plain_json import to_text


@click.command()
@flags(PARTS, WORK, BUDGET, SETTINGS)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: a fresh one in runs/]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the settings, without training.")
@click.option("--quiet", is_flag=True, help="Print only errors and the result.")
@JSON
def run(out: Path | None, resume: bool, dry_run: bool, quiet: bool, as_json: bool, **given: Any) -> None:
    """Fine-tune a model by forward passes, and score it before and after training.

    Without flags: LOZO on a packaged 135M model and a packaged sentiment task.
    """
    from zoplat.config.layers import resolve
    from zoplat.training.setup import check
    from zoplat.training.train import train

    settings = as_settings(given)
    if resume and out and (out / "config.toml").exists() and _is_bare(settings):
        settings["config"] = out / "config.toml"
    config = resolve(settings)
    if dry_run:
        sizes = check(config, out, resume)
        click.echo(to_text({**config.table(), "rows": sizes}) if as_json else config.toml())
        return
    from zoplat.cli.display import display, print_summary

    with display(as_json, quiet) as callback:
        result = train(config, out, resume, callback)
    if as_json:
        echo_json(result.summary.to_json())
    else:
        print_summary(result)


def _is_bare(settings: dict[str, Any]) -> bool:
    """Whether no setting was given."""
    return all(value is None or value == {} for value in settings.values())
