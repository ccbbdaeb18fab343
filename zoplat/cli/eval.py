"""zoplat eval: the score of a model without training it, or of the result of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.options import (
    BATCHES,
    OUTPUT,
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
from zoplat.core.notices import counted

if TYPE_CHECKING:
    from zoplat.config.run_config import RunConfig
    from zoplat.evaluation.protocol import EvaluationProtocol


@click.command(name="eval", cls=Sectioned)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--shots", type=int, default=0, show_default=True, help="Solved training rows before every prompt.")
@click.option("--calibrate", is_flag=True, help="Subtract the score of an option after a prompt without content.")
@click.option("--probe", is_flag=True, help="Predict by a linear classifier on the model's features.")
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True, help="Rows to score.")
@click.option(
    "--lm-eval",
    metavar="FILE.yaml",
    type=click.Path(path_type=Path),
    help="Score RUN with lm-evaluation-harness on this.",
)
@flags(PARTS[3:], WORK, BATCHES, [SEED], SETTINGS)
@PLUGIN
@OUTPUT
def evaluate(
    run: Path | None,
    shots: int,
    calibrate: bool,
    probe: bool,
    split: str,
    lm_eval: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Score a model without training it: zero-shot, with solved examples, or through a probe; or score RUN's result."""
    from zoplat.config.layers import resolve
    from zoplat.evaluation.predictions import unanswered_note
    from zoplat.evaluation.protocol import EvaluationProtocol
    from zoplat.training.directory import RunDirectory
    from zoplat.training.opening import restored, score_model

    protocol = EvaluationProtocol(shots, calibrate, probe)
    if lm_eval:
        _with_harness(run, lm_eval, given, protocol != EvaluationProtocol(), as_json)
        return
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
    scored, way = (f"{run}", _trained(run, config, protocol)) if run else (found["model"], found["way"])
    click.echo(f"{scored}, {way}, {found['task']} {split}: {found['metric']} {100 * found['score']:.1f} %", nl=False)
    click.echo(f"  ({counted(found['rows'], 'row')}, {found['seconds']:.0f} s)")


def _trained(run: Path, config: "RunConfig", protocol: "EvaluationProtocol") -> str:
    """How the model of a run was made, and evaluated: "zero-shot" is said of models without training."""
    from zoplat.training.directory import RunDirectory

    steps = RunDirectory(run).checkpoints.step() or 0
    way = "" if protocol.name == "zero-shot" else f", {protocol.name}"
    return f"after {counted(steps, 'step')} of {config.estimator_name}{way}"


def _with_harness(run: Path | None, task: Path, given: dict[str, Any], is_special: bool, as_json: bool) -> None:
    """Score the result of a run with lm-evaluation-harness."""
    from zoplat.training.directory import RunDirectory
    from zoplat.training.harness import score_with_harness

    limit = given.pop("limit", None)
    others = [name for name, value in as_settings(given).items() if value not in (None, {})]
    if run is None:
        raise ZoplatError("--lm-eval scores the result of a run: zoplat eval RUN --lm-eval FILE.yaml.")
    if is_special or others:
        what = f"--{others[0].replace('_', '-')}" if others else "--shots, --calibrate and --probe"
        raise ZoplatError(f"--lm-eval takes all from its file and the run; leave {what} out. --limit N is possible.")
    found = score_with_harness(RunDirectory.existing(run), task, limit)
    if as_json:
        echo_json(found)
        return
    click.echo(f"{run}, {found['task']} by lm-evaluation-harness {found['harness']} ({counted(found['rows'], 'row')})")
    for metric, value in found["scores"].items():
        click.echo(f"  {metric} {value:.4f}")
