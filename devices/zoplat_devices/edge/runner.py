"""zoplat-edge: train and score a bundle on a board, without torch.

The loop, the journal and the checkpoints are the engine's own. What is added here are lines of progress, waiting while
the board is too hot, its battery low or a signal asks for it, and a limit of memory.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from zoplat import __version__
from zoplat.bundle.bundle import Bundle
from zoplat.cli import Commands
from zoplat.cli.options import JSON
from zoplat.config.layers import read_toml
from zoplat.config.run_config import RunConfig
from zoplat.core.device import MemoryReading, Session
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.paths import check_writable
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.opening import restored, score_model
from zoplat.training.progress import Progress
from zoplat.training.replay import replay as rebuild
from zoplat.training.summary import Summary
from zoplat.training.train import train
from zoplat_devices.edge.board import Limits, Reading
from zoplat_devices.onnx.bundle import OnnxBundle
from zoplat_devices.onnx.device import OnnxRuntime

EVERY = 10.0  # seconds between lines
WATCHED = 1.0  # seconds between looks at the board
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
FOLDER = click.Path(path_type=Path)
DATA = click.option("--data", type=FOLDER, help="Folder with other rows: train, dev and test .jsonl or .csv.")


class Edge(Callback):
    """Lines of progress, and the watch over the board.

    Args:
        limits: beyond which the run waits.
        memory: bytes above which it stops; None for no limit.
        is_quiet: whether lines are left out; what holds the run up is always said.
    """

    def __init__(self, limits: Limits, memory: int | None = None, is_quiet: bool = False) -> None:
        self.limits, self.memory, self.is_quiet = limits, memory, is_quiet
        self.peak, self.is_asked_to_wait = 0, False
        self.board, self.looked, self.said = Reading(), 0.0, 0.0

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        self.config, self.directory, facts = config, directory, session.facts
        self._say(
            f"zoplat {__version__} · {config.estimator_name} · {config.task} · seed {config.seed}\n"
            f"{facts['model']}, base {facts['base']} · {facts['trainable_parameters']:,} trainable weights "
            f"({config.tune.name}) · {facts['kernels']}, {facts['threads']} threads\nrun directory {directory}"
        )

    def resumed(self, step: int) -> None:
        self._say(f"resumed: {step} steps rebuilt from the journal")

    def measured(self, peak: MemoryReading) -> None:
        self.peak = peak.host_peak
        if self.memory and self.peak > self.memory:
            raise RunFailed(
                f"--memory {_mebibytes(self.memory)}: the run takes {_mebibytes(self.peak)} and was stopped; what it "
                f"did is kept. Go on with more by --resume --out {self.directory}, or begin another one with a "
                f"--micro-batch-size below {self.config.read_at_once}."
            )

    def stepped(self, state: Progress, loss: float | None) -> None:
        is_last = state.is_over(self.config)
        if state.step == 1 or is_last or time.monotonic() - self.said > EVERY:
            self.said = time.monotonic()
            shown = "–" if loss is None else f"{loss:.4f}"
            passes = state.passes / max(state.seconds, 1e-9)
            parts = [f"step {state.step}/{self.config.steps or '–'}", f"loss {shown}", f"{passes:.2g} passes/s"]
            self._say("  ".join([*parts, _mebibytes(self.peak), str(Reading.now())]).rstrip())
        if not is_last:
            self._wait()

    def evaluated(self, record: dict[str, Any]) -> None:
        kept = ", from an earlier run" if record["kept"] else ""
        score = f"{record['split']} {record['metric']} {record['score']:.1%} ({record['rows']} rows{kept})"
        self._say(f"step {record['step']}: {score}")

    def warned(self, text: str) -> None:
        click.echo(f"Warning: {text}", err=True)

    def _wait(self) -> None:
        """Return when nothing holds the run up; what does is said once."""
        if not (reason := self._held_up()):
            return
        click.echo(f"paused: {reason}", err=True)
        if hasattr(os, "sync"):  # a battery may not last until it goes on
            os.sync()
        while self._held_up(is_waiting=True):
            time.sleep(WATCHED / 10)
        click.echo("going on", err=True)

    def _held_up(self, is_waiting: bool = False) -> str | None:
        if self.is_asked_to_wait:
            return "a signal asked for it (SIGUSR2 goes on)"
        if time.monotonic() - self.looked > WATCHED:
            self.looked, self.board = time.monotonic(), Reading.now()
        return self.limits.passed(self.board, is_waiting)

    def _say(self, text: str) -> None:
        if not self.is_quiet:
            click.echo(text)

    def asked_to_wait(self, number: int, _: Any) -> None:
        """SIGUSR1 came, or SIGUSR2."""
        self.is_asked_to_wait = number == signal.SIGUSR1


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="zoplat-edge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Train and score a bundle of `zoplat pack` on a board, with Python, numpy and onnxruntime."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command()
@click.argument("bundle", type=FOLDER)
@JSON
def check(bundle: Path, as_json: bool) -> None:
    """Check every byte of BUNDLE, and say what it holds."""
    opened = Bundle.opened(bundle)
    facts = opened.told["facts"]
    if as_json:
        click.echo(json.dumps({"status": "intact", "bytes": opened.bytes, **facts}))
        return
    click.echo(f"{bundle}: intact, {_mebibytes(opened.bytes)}, packed by zoplat {opened.told['zoplat']}")
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
@click.option("--battery", type=float, metavar="PERCENT", help="Wait below this charge unless plugged in.")
@click.option("--temperature", type=float, metavar="CELSIUS", help="Wait above this.")
@click.option("--quiet", is_flag=True, help="Say nothing but what holds the run up, errors and the end.")
@JSON
def run(
    bundle: Path,
    out: Path | None,
    resume: bool,
    data: Path | None,
    memory: str | None,
    battery: float | None,
    temperature: float | None,
    quiet: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Train as BUNDLE says, and score before and after.

    SIGUSR1 makes the run wait after the step under way, SIGUSR2 lets it go on.
    """
    most = None if memory is None else parsed_bytes(memory)
    opened = Bundle.opened(bundle)
    _check_outside(bundle, out)
    given = {name: value for name, value in changes.items() if value is not None}
    begun = out / "config.toml" if out else None
    bare = resume and not given and not data and begun is not None and begun.exists()
    config = _config(opened, read_toml(begun) if bare and begun else None, given, data)
    observer = Edge(Limits(battery, temperature), most, quiet or as_json)
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), observer.asked_to_wait)
    result = train(config, out, resume, observer)
    click.echo(json.dumps(result.summary.to_json()) if as_json else _end(result.summary, result.directory, bundle))


@main.command(name="eval")
@click.argument("bundle", type=FOLDER)
@click.option(
    "--run", "run_", type=FOLDER, help="Score what this run made of the model.  [default: the model as packed]"
)
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True, help="Rows to score.")
@DATA
@JSON
def evaluate(bundle: Path, run_: Path | None, split: str, data: Path | None, as_json: bool) -> None:
    """Score the model of BUNDLE, or a run's result."""
    config, session = _opened(bundle, run_, data) if run_ else (_config(Bundle.opened(bundle), data=data), None)
    found = score_model(config, EvaluationProtocol(), split, session)
    score = f"{found['metric']} {100 * found['score']:.1f} %  ({found['rows']} rows, {found['seconds']:.0f} s)"
    click.echo(json.dumps(found) if as_json else f"{run_ or bundle}, {found['task']} {split}: {score}")


@main.command()
@click.argument("bundle", type=FOLDER)
@click.argument("run", type=FOLDER)
@JSON
def replay(bundle: Path, run: Path, as_json: bool) -> None:
    """Rebuild the weights of RUN, of any device, from its journal and BUNDLE, without a forward pass."""
    directory = RunDirectory.existing(run)
    config = _config(Bundle.opened(bundle), read_toml(directory.config))
    found = rebuild(directory, None, config=config)
    click.echo(json.dumps(found) if as_json else f"{found['steps']} steps rebuilt: {found['weights_digest']}")
    if found["status"] == "different":
        raise RunFailed(f"The run ended with {found['recorded_digest']}.")


@main.command()
@click.argument("bundle", type=FOLDER)
@click.argument("run", type=FOLDER)
@click.option("--to", type=FOLDER, required=True, help="Folder for the result.")
@JSON
def export(bundle: Path, run: Path, to: Path, as_json: bool) -> None:
    """Write what RUN made: an adapter in ONNX Runtime's format, and what was trained as safetensors."""
    check_writable(to, "--to")
    _, session = _opened(bundle, run)
    session.export(to)
    sizes = {path.name: path.stat().st_size for path in sorted(to.iterdir())}
    if as_json:
        click.echo(json.dumps({"status": "done", "to": str(to), "files": sizes, "weights_digest": session.digest()}))
    else:
        click.echo(f"{to}: {', '.join(f'{name} ({size / 2**10:,.0f} KiB)' for name, size in sizes.items())}")


def parsed_bytes(text: str) -> int:
    """A number of bytes such as 400MB, 0.5G or 512MiB.

    Raises:
        ZoplatError: it is none.
    """
    told = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|k|M|G|Ki|Mi|Gi)B?", text.strip())
    if not told or not float(told[1]):
        raise ZoplatError(f"--memory takes bytes, such as 400MB or 0.5GiB, got '{text}'.")
    return int(float(told[1]) * UNITS[told[2]])


def _config(
    bundle: Bundle, run: dict[str, Any] | None = None, changes: dict[str, Any] | None = None, data: Path | None = None
) -> RunConfig:
    """A run of a bundle, on the device that opens it."""
    config = bundle.config(run, changes, data)
    if not isinstance(config.device, OnnxRuntime):
        raise ZoplatError(f"{bundle.folder} was packed by device '{config.device_name}', which zoplat-edge can't open.")
    return replace(config, device=OnnxBundle.of(config.device, bundle.folder))


def _opened(bundle: Path, run: Path, data: Path | None = None) -> tuple[RunConfig, Session]:
    """A run at its newest checkpoint, in its bundle."""
    directory = RunDirectory.existing(run)
    return restored(directory, _config(Bundle.opened(bundle), read_toml(directory.config), data=data))


def _check_outside(bundle: Path, out: Path | None) -> None:
    place = (out or Path("runs")).resolve()
    if place.is_relative_to(bundle.resolve()):
        raise ZoplatError(
            f"The run would be written to {place}, inside the bundle, which must stay as it was packed. "
            "Give --out another place."
        )


def _end(summary: Summary, directory: Path, bundle: Path) -> str:
    scores = [f"{split} {before:.1%} → {after:.1%}" for split, (before, after) in summary.scores.items()]
    journal = RunDirectory(directory).journal.stat().st_size / 2**10
    return (
        f"{summary.metric}: {', '.join(scores)}\n"
        f"{summary.steps} steps, {summary.forward_passes} forward passes, "
        f"{summary.seconds_training:.0f} s of training; peak memory {_mebibytes(summary.peak_bytes.host)}\n"
        f"journal {journal:,.1f} KiB, weights {summary.weights_digest}\n"
        f"result: zoplat-edge export {bundle} {directory} --to DIR"
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


if __name__ == "__main__":
    main()
