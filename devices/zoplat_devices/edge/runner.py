"""zoplat-edge: train and score a bundle on a board, without torch.

The training loop, the journal and the checkpoints are the engine's own. This module has the commands; `callback` prints
progress, pauses a run while the board is too hot or its battery low, and stops it above a memory limit.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import click

from zoplat import __version__
from zoplat.bundle.bundle import Bundle
from zoplat.cli import Commands
from zoplat.cli.options import OUTPUT
from zoplat.cli.terminal import is_quiet
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import Interrupted, RunFailed, ZoplatError
from zoplat.core.notices import counted
from zoplat.core.plain_json import to_text
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.training.directory import RunDirectory
from zoplat.training.export import check_target
from zoplat.training.export import export as write
from zoplat.training.opening import restored, score_model
from zoplat.training.replay import replay as rebuild
from zoplat.training.summary import Summary
from zoplat.training.train import train
from zoplat_devices.edge.board import Limits
from zoplat_devices.edge.callback import EdgeCallback, mebibytes
from zoplat_devices.onnx.bundle import OnnxBundle
from zoplat_devices.onnx.device import OnnxRuntime

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
FOLDER = click.Path(path_type=Path)
DATA = click.option("--data", type=FOLDER, help="Folder with other rows: train, dev and test .jsonl or .csv.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="zoplat-edge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Train and score a bundle of `zoplat pack` on a board, with Python, numpy and onnxruntime."""


@main.command()
@click.argument("bundle", type=FOLDER)
@OUTPUT
def check(bundle: Path, as_json: bool) -> None:
    """Verify every byte of BUNDLE, and say what it holds."""
    opened = Bundle.opened(bundle)
    facts = opened.manifest["facts"]
    if as_json:
        click.echo(json.dumps({"status": "intact", "bytes": opened.bytes, **facts}))
        return
    click.echo(f"{bundle}: intact, {mebibytes(opened.bytes)}, packed by zoplat {opened.manifest['zoplat']}")
    click.echo(f"{facts['model']}, base {facts['base']}, {facts['tune']}, {facts['estimator']} on {facts['task']}")


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option("--out", type=FOLDER, help="Run directory.  [default: a fresh one in runs/]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one.")
@click.option("--steps", type=int, help="End after this many steps.")
@click.option("--max-passes", type=int, help="End after this many forward passes.")
@click.option("--max-seconds", type=float, help="End after this much training time.")
@click.option("--evaluate-every", type=int, help="Steps between evaluations on dev, each with a checkpoint.")
@click.option("--micro-batch-size", type=int, help="Rows that the model reads at a time.")
@DATA
@click.option("--memory", metavar="BYTES", help="Stop above this much, such as 400MB.")
@click.option("--battery", type=float, metavar="PERCENT", help="Pause below this charge unless plugged in.")
@click.option("--temperature", type=float, metavar="CELSIUS", help="Pause above this.")
@OUTPUT
def run(
    bundle: Path,
    out: Path | None,
    resume: bool,
    data: Path | None,
    memory: str | None,
    battery: float | None,
    temperature: float | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Train as BUNDLE says, and score before and after.

    SIGUSR1 pauses the run after the current step, SIGUSR2 continues it.
    """
    memory_limit = None if memory is None else parsed_bytes(memory)
    opened = Bundle.opened(bundle)
    _check_outside(bundle, out)
    given = {name: value for name, value in changes.items() if value is not None}
    earlier = out / "config.toml" if out else None
    is_unchanged = resume and not given and not data and earlier is not None and earlier.exists()
    config = _config(
        opened, RunDirectory(earlier.parent).read_settings() if is_unchanged and earlier else None, given, data
    )
    callback = EdgeCallback(Limits(battery, temperature), memory_limit, is_quiet() or as_json)
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), callback.on_signal)
    try:
        result = train(config, out, resume, callback)
    except Interrupted as stop:
        raise Interrupted(
            stop.run, f"zoplat-edge run {quote(str(bundle))} --resume --out {quote(str(stop.run))}"
        ) from None
    click.echo(to_text(result.summary.to_json()) if as_json else _last_lines(result.summary, result.directory, bundle))


@main.command(name="eval")
@click.argument("bundle", type=FOLDER)
@click.option("--run", "run_", type=FOLDER, help="Score the weights of this run.  [default: the model as packed]")
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True, help="Rows to score.")
@DATA
@OUTPUT
def evaluate(bundle: Path, run_: Path | None, split: str, data: Path | None, as_json: bool) -> None:
    """Score the model of BUNDLE, or a run's result."""
    config, session = _opened(bundle, run_, data) if run_ else (_config(Bundle.opened(bundle), data=data), None)
    result = score_model(config, EvaluationProtocol(), split, session)
    took = f"{counted(result['rows'], 'row')}, {result['seconds']:.0f} s"
    score = f"{result['metric']} {100 * result['score']:.1f} %  ({took})"
    click.echo(to_text(result) if as_json else f"{run_ or bundle}, {result['task']} {split}: {score}")


@main.command()
@click.argument("bundle", type=FOLDER)
@click.argument("run", type=FOLDER)
@OUTPUT
def replay(bundle: Path, run: Path, as_json: bool) -> None:
    """Rebuild the weights of RUN, of any device, from its journal and BUNDLE, without a forward pass."""
    directory = RunDirectory.existing(run)
    config = _config(Bundle.opened(bundle), directory.read_settings())
    result = rebuild(directory, None, config=config)
    click.echo(
        json.dumps(result) if as_json else f"{counted(result['steps'], 'step')} rebuilt: {result['weights_digest']}"
    )
    if result["status"] == "different":
        raise RunFailed(
            f"The run ended with {result['recorded_digest']}, so these are not its weights. The bits are the same "
            "only for the bundle and the settings of the run."
        )


@main.command()
@click.argument("bundle", type=FOLDER)
@click.argument("run", type=FOLDER)
@click.option("--to", type=FOLDER, required=True, help="Folder for the result.")
@OUTPUT
def export(bundle: Path, run: Path, to: Path, as_json: bool) -> None:
    """Write the result of RUN: the trained weights as safetensors, and an adapter in ONNX Runtime's format."""
    check_target(to, None)
    _, session = _opened(bundle, run)
    sizes = {name: (to / name).stat().st_size for name in write(session, to)}
    if as_json:
        click.echo(json.dumps({"status": "done", "to": str(to), "files": sizes, "weights_digest": session.digest()}))
    else:
        click.echo(f"{to}: {', '.join(f'{name} ({size / 2**10:,.0f} KiB)' for name, size in sizes.items())}")


def parsed_bytes(text: str) -> int:
    """Bytes from a text such as 400MB, 0.5G or 512MiB.

    Raises:
        ZoplatError: the text is no positive number of bytes.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|k|M|G|Ki|Mi|Gi)B?", text.strip())
    if not match or not float(match[1]):
        raise ZoplatError(f"--memory takes bytes, such as 400MB or 0.5GiB, got '{text}'.")
    return int(float(match[1]) * UNITS[match[2]])


def _config(
    bundle: Bundle, run: dict[str, Any] | None = None, changes: dict[str, Any] | None = None, data: Path | None = None
) -> RunConfig:
    """The run of a bundle, or another one from its weights, on the device that opens the bundle."""
    config = bundle.config(run, changes, data)
    if not isinstance(config.device, OnnxRuntime):
        raise ZoplatError(f"{bundle.folder} was packed by device '{config.device_name}', which zoplat-edge can't open.")
    return replace(config, device=OnnxBundle.of(config.device, bundle.folder))


def _opened(bundle: Path, run: Path, data: Path | None = None) -> tuple[RunConfig, Session]:
    """A run and its model at its newest checkpoint, opened from its bundle."""
    directory = RunDirectory.existing(run)
    return restored(directory, _config(Bundle.opened(bundle), directory.read_settings(), data=data))


def _check_outside(bundle: Path, out: Path | None) -> None:
    """Raise ZoplatError if the run would be written into the bundle."""
    place = (out or Path("runs")).resolve()
    if place.is_relative_to(bundle.resolve()):
        raise ZoplatError(
            f"The run would be written to {place}, inside the bundle, which must stay as it was packed. "
            "Give --out another place."
        )


def _last_lines(summary: Summary, directory: Path, bundle: Path) -> str:
    scores = [f"{split} {before:.1%} → {after:.1%}" for split, (before, after) in summary.scores.items()]
    journal = RunDirectory(directory).journal.stat().st_size / 2**10
    return (
        f"{summary.metric}: {', '.join(scores)}\n"
        f"{counted(summary.steps, 'step')}, {counted(summary.forward_passes, 'forward pass')}, "
        f"{summary.seconds_training:.0f} s of training; peak memory {mebibytes(summary.peak_bytes.host)}\n"
        f"journal {journal:,.1f} KiB, weights {summary.weights_digest}\n"
        f"result: zoplat-edge export {bundle} {directory} --to DIR"
    )


if __name__ == "__main__":
    main()
