"""Measure steps on adapters with ONNX Runtime and PyTorch, interleaved, and merge them into the results.

    python bench/engines.py [--only PATTERN] [--list]

Two-sided MeZO with LoRA. Labels: step/ENGINE/STRATEGY/ROWSxTOKENS, slope/ENGINE, peak/ENGINE. Times of steps are
divided by those of forward passes of PyTorch in float32. A slope is L(θ + εz) − L(θ − εz) for Gaussian z; the slopes of
an engine are compared with those of PyTorch in float32. A peak is that of a short run in a process of its own. A graph
that is not in the cache is exported first, which takes minutes.
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

from bench.cases import ENGINES, FOUR, STRATEGIES, TORCH, Engine, Setup, Shape, Variant
from bench.models import batch, source
from bench.results import FOLDER, Row, command_of, merge, run_of
from bench.steps import Step, ZoplatStep, bare, vocabulary
from bench.suite import line, shape_of
from bench.timing import Timings, interleaved
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
        print(*map(text_of, rows), sep="\n", flush=True)


def labels(arguments: argparse.Namespace) -> list[str]:
    """Labels of everything that can be measured."""
    steps = [
        f"step/{engine.name}/{strategy}/{shape}"
        for shape in arguments.shape
        for engine in ENGINES
        for strategy in STRATEGIES
    ]
    return [*steps, *(f"{kind}/{engine.name}" for kind in ("slope", "peak") for engine in ENGINES)]


def measured(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Rows after each group of cases."""
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
    """A session of an engine, with LoRA."""
    device = replace(catalogue().entry("device", engine.device).value, threads=arguments.threads, **engine.options)
    spec = ModelSpec(source(arguments.model), Tuning("lora"), engine.dtype, 0, base=engine.base)
    session: Session = device.open(spec)
    return session


def steps(
    sessions: Sessions, chosen: Sequence[tuple[Engine, str]], shape: Shape, arguments: argparse.Namespace
) -> Iterator[Row]:
    """Times of steps divided by those of forward passes of PyTorch."""
    torch: Any = sessions[TORCH]
    rows = batch(vocabulary(torch.model), shape)
    setup, timed = Setup(arguments.model, "lora"), dict[str, Step]()
    for engine, strategy in chosen:
        timed[f"{engine.name}/{strategy}"] = ZoplatStep(
            sessions[engine], setup, Variant(strategy, {"estimator": "mezo"}, strategy), rows
        )
    timings: dict[str, Timings] = {}
    interleaved(timed, bare(torch, rows), lambda: None, arguments.rounds, arguments.seconds, 1, timings)
    for engine, strategy in chosen:
        sessions[engine].space.settle()
        identity = {"kind": "step", "setup": setup.name, "pair": strategy, "step": engine.name, "shape": [*shape]}
        name = f"{engine.name}/{strategy}"
        yield {**identity, "model": arguments.model, "passes": timed[name].passes, **timings[name].row()}


def slopes(sessions: Sessions, arguments: argparse.Namespace) -> Iterator[Row]:
    """How well slopes along directions agree with those of PyTorch."""
    torch: Any = sessions[TORCH]
    rows = batch(vocabulary(torch.model), FOUR)
    found = {
        engine: [slope(session, rows, i) for i in range(arguments.directions)] for engine, session in sessions.items()
    }
    for engine, own in found.items():
        agreement = float(np.corrcoef(found[TORCH], own)[0, 1])
        spread = float(np.std(own) / np.std(found[TORCH]))
        identity = {"kind": "slope", "model": arguments.model, "step": engine.name, "shape": [*FOUR]}
        yield {**identity, "directions": len(own), "agreement": round(agreement, 4), "spread": round(spread, 3)}


def slope(session: Session, rows: Sequence[Any], index: int) -> float:
    """L(θ + εz) − L(θ − εz), z being the direction with this index."""
    space, losses = session.space, []
    z = EPS * space.draw(catalogue().entry("sampler", "gaussian").value, Key(0, index, 0))
    for direction in (z, -z):
        space.at(direction)
        losses.append(float(session.forward(rows)))
    space.settle()
    return losses[0] - losses[1]


def peak(engine: Engine, arguments: argparse.Namespace) -> Row:
    """Peak bytes of a short run, opening the model included, and of its steps alone."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--{name}={getattr(engine, name)}" for name in ("device", "dtype", "base")]
        for name, value in {**engine.options, "threads": arguments.threads}.items():
            given += ["-o", f"device.{name}={value}".lower()]
        model = [] if arguments.model == "smollm2-135m" else ["--model", arguments.model]
        run = ["run", "--estimator", "mezo", "--tune", "lora", *given, *model, "--quiet", "--out", folder]
        run += ["--steps=3", "--limit=16", "--batch-size=4"]
        subprocess.run([sys.executable, "-m", "zoplat", *run], check=True, stdout=subprocess.DEVNULL)
        summary = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    identity = {"kind": "engine peak", "model": arguments.model, "step": engine.name}
    return {**identity, "peak": summary["peak_bytes"]["host"], "step_peak": summary["step_peak_bytes"]["host"]}


def text_of(row: Row) -> str:
    """A row as a line for the terminal."""
    if row["kind"] == "slope":
        return f"{row['step']:<34} slopes agree by {row['agreement']:.4f}, spread {row['spread']:.3f}"
    if row["kind"] == "engine peak":
        return f"{row['step']:<34} {row['peak'] / 2**20:9.1f} MiB, {row['step_peak'] / 2**20:9.1f} in steps"
    return f"{row['pair']:<11}{line(row)}"


if __name__ == "__main__":
    main()
