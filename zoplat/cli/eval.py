"""zoplat eval: the score of a model without training it, or of the result of a run."""

from pathlib import Path
from typing import Any

import click

from zoplat.cli.options import (
    BATCHES,
    JSON,
    PARTS,
    PLUGIN,
    SEED,
    SETTINGS,
    WORK,
    Sectioned,
    as_settings,
    echo_json,
    flags,
)
from zoplat.core.errors import ZoplatError


@click.command(name="eval", cls=Sectioned)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--shots", type=int, default=0, show_default=True, help="Solved training rows before every prompt.")
@click.option("--calibrate", is_flag=True, help="Subtract the score of an option after a prompt without content.")
@click.option("--probe", is_flag=True, help="Predict by a linear classifier on the model's features.")
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True, help="Rows to score.")
@flags(PARTS[3:], WORK, BATCHES, [SEED], SETTINGS)
@PLUGIN
@JSON
def evaluate(
    run: Path | None, shots: int, calibrate: bool, probe: bool, split: str, as_json: bool, **given: Any
) -> None:
    """Score a model without training it: zero-shot, with solved examples, or through a probe; or score RUN's result."""
    from zoplat.config.layers import resolve
    from zoplat.evaluation.predictions import unanswered_note
    from zoplat.evaluation.protocol import EvaluationProtocol
    from zoplat.training.directory import RunDirectory
    from zoplat.training.opening import restored, score_model

    protocol = EvaluationProtocol(shots, calibrate, probe)
    settings = {name: value for name, value in as_settings(given).items() if value not in (None, {})}
    if run and settings:
        raise ZoplatError(f"{run} has its own settings; leave --{next(iter(settings)).replace('_', '-')} out.")
    if run:
        config, session = restored(RunDirectory.existing(run), reads_rows=True)
    else:
        config, session = resolve({"tune": "full", **settings}), None
    found = score_model(config, protocol, split, session)
    if found["unanswered"]:
        click.echo(f"Warning: {unanswered_note(found['unanswered'], found['rows'])}", err=True)
    if as_json:
        echo_json(found)
        return
    scored = f"{run}" if run else found["model"]
    click.echo(
        f"{scored}, {found['way']}, {found['task']} {split}: {found['metric']} {100 * found['score']:.1f} %", nl=False
    )
    click.echo(f"  ({found['rows']} rows, {found['seconds']:.0f} s)")
