"""Measure steps on adapters by ONNX Runtime and PyTorch, turn by turn, and enter them into the results.

    python bench/engines.py [--only PATTERN] [--list]

Two-sided MeZO with LoRA. Labels: step/ENGINE/ROAD/ROWSxTOKENS, slope/ENGINE, peak/ENGINE. Steps are divided by the
forward passes of PyTorch in float32. A slope is L(θ + εz) − L(θ − εz) for Gaussian z; those of an engine are held
against those of PyTorch in float32. A peak is that of a short run in a process of its own. A graph that is not kept is
made first, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import ENGINES, FOUR, STRATEGIES, TORCH, Engine, Setup, Shape, Way
from bench.models import batch, source
from bench.results import FOLDER, Row, command_of, merge, run_of
from bench.steps import Ours, Step, bare, vocabulary
from bench.suite import line, shape_of
from bench.timing import Taken, interleaved
from zoplat import Key, ModelSpec
from zoplat.core.device import Session
from zoplat.core.model_spec import Tuning
from zoplat.registry import catalogue

EPS = 1e-2
SHAPES = ("1x32", "4x64", "16x64")
Sessions = Mapping[Engine, Session]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression that finds labels")
    parser.add_argument("--list", action="store_true", help="print labels and measure nothing")
    parser.add_argument("--model", default="smollm2-135m", help="what `zoplat run --model` takes")
    parser.add_argument("--shape", nargs="*", default=[*SHAPES], help="of batches: ROWSxTOKENS")
    parser.add_argument("--rounds", type=int, default=5, help="of every step, at least")
    parser.add_argument("--seconds", type=float, default=8, help="of every shape, at least")
    parser.add_argument("--directions", type=int, default=24, help="of slopes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER / "engines.json", help="file to merge results into")
    arguments = parser.parse_args(given)
    if arguments.list:
        print(*labels(arguments), sep="\n")
        return
    command = command_of("python bench/engines.py", parser, arguments)
    for rows in measured(arguments):
        merge(arguments.out, run_of(command), rows)
        print(*map(told, rows), sep="\n", flush=True)


def labels(arguments: argparse.Namespace) -> list[str]:
    """Of all that can be measured."""
    steps = [
        f"step/{engine.name}/{strategy}/{shape}"
        for shape in arguments.shape
        for engine in ENGINES
        for strategy in STRATEGIES
    ]
    return [*steps, *(f"{kind}/{engine.name}" for kind in ("slope", "peak") for engine in ENGINES)]


def measured(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Rows after everything that is measured together."""
    wanted = {label for label in labels(arguments) if re.search(arguments.only, label)}
    peaks = [engine for engine in ENGINES if f"peak/{engine.name}" in wanted]
    named = {label.split("/")[1] for label in wanted if not label.startswith("peak")}
    if named:
        opening = [engine for engine in ENGINES if engine is TORCH or engine.name in named]
        sessions = {engine: opened(engine, arguments) for engine in opening}
        for shape in arguments.shape:
            chosen = [
                (e, strategy)
                for e in sessions
                for strategy in STRATEGIES
                if f"step/{e.name}/{strategy}/{shape}" in wanted
            ]
            if chosen:
                yield [*steps(sessions, chosen, shape_of(shape), arguments)]
        yield [*slopes({e: s for e, s in sessions.items() if e is TORCH or f"slope/{e.name}" in wanted}, arguments)]
    for engine in peaks:
        yield [peak(engine, arguments)]


def opened(engine: Engine, arguments: argparse.Namespace) -> Session:
    """A session with LoRA on it."""
    device = replace(catalogue().entry("device", engine.device).value, threads=arguments.threads, **engine.options)
    spec = ModelSpec(source(arguments.model), Tuning("lora"), engine.dtype, 0, base=engine.base)
    session: Session = device.open(spec)
    return session


def steps(
    sessions: Sessions, chosen: Sequence[tuple[Engine, str]], shape: Shape, arguments: argparse.Namespace
) -> Iterator[Row]:
    """What steps take, over the forward passes of PyTorch."""
    torch: Any = sessions[TORCH]
    rows = batch(vocabulary(torch.model), shape)
    setup, made = Setup(arguments.model, "lora"), dict[str, Step]()
    for engine, strategy in chosen:
        made[f"{engine.name}/{strategy}"] = Ours(
            sessions[engine], setup, Way(strategy, {"estimator": "mezo"}, strategy), rows
        )
    taken: dict[str, Taken] = {}
    interleaved(made, bare(torch, rows), lambda: None, arguments.rounds, arguments.seconds, 1, taken)
    for engine, strategy in chosen:
        sessions[engine].space.settle()
        place = {"kind": "step", "setup": setup.name, "pair": strategy, "step": engine.name, "shape": [*shape]}
        name = f"{engine.name}/{strategy}"
        yield {**place, "model": arguments.model, "passes": made[name].passes, **taken[name].row()}


def slopes(sessions: Sessions, arguments: argparse.Namespace) -> Iterator[Row]:
    """How far slopes along directions agree with those of PyTorch."""
    torch: Any = sessions[TORCH]
    rows = batch(vocabulary(torch.model), FOUR)
    found = {
        engine: [slope(session, rows, i) for i in range(arguments.directions)] for engine, session in sessions.items()
    }
    for engine, told in found.items():
        agreement = float(np.corrcoef(found[TORCH], told)[0, 1])
        spread = float(np.std(told) / np.std(found[TORCH]))
        place = {"kind": "slope", "model": arguments.model, "step": engine.name, "shape": [*FOUR]}
        yield {**place, "directions": len(told), "agreement": round(agreement, 4), "spread": round(spread, 3)}


def slope(session: Session, rows: Sequence[Any], index: int) -> float:
    """L(θ + εz) − L(θ − εz) along a direction of a number."""
    space, losses = session.space, []
    z = EPS * space.draw(catalogue().entry("sampler", "gaussian").value, Key(0, index, 0))
    for direction in (z, -z):
        space.at(direction)
        losses.append(float(session.forward(rows)))
    space.settle()
    return losses[0] - losses[1]


def peak(engine: Engine, arguments: argparse.Namespace) -> Row:
    """The most bytes that a short run holds, opening and all, and seconds of its opening."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--{name}={getattr(engine, name)}" for name in ("device", "dtype", "base")]
        for name, value in {**engine.options, "threads": arguments.threads}.items():
            given += ["-o", f"device.{name}={value}".lower()]
        model = [] if arguments.model == "smollm2-135m" else ["--model", arguments.model]
        run = ["run", "--estimator", "mezo", "--tune", "lora", *given, *model, "--quiet", "--out", folder]
        run += ["--steps=3", "--limit=16", "--batch-size=4"]
        subprocess.run([sys.executable, "-m", "zoplat", *run], check=True, stdout=subprocess.DEVNULL)
        summary = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    place = {"kind": "engine peak", "model": arguments.model, "step": engine.name}
    return {**place, "peak": summary["peak_bytes"]["host"], "step_peak": summary["step_peak_bytes"]["host"]}


def told(row: Row) -> str:
    """A row as the terminal shows it."""
    if row["kind"] == "slope":
        return f"{row['step']:<34} slopes agree by {row['agreement']:.4f}, spread {row['spread']:.3f}"
    if row["kind"] == "engine peak":
        return f"{row['step']:<34} {row['peak'] / 2**20:9.1f} MiB, {row['step_peak'] / 2**20:9.1f} in steps"
    return f"{row['pair']:<6}{line(row)}"


if __name__ == "__main__":
    main()
