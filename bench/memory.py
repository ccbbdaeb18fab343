"""Peak memory of steps above that of forward passes, each in a process of its own.

The peak is the operating system's counter of resident memory, reset when the model is open. The process for inference
loads the same model and makes forward passes on the same batch, without any space or kernel of zoplat.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from functools import partial
from statistics import median_low
from typing import TYPE_CHECKING, Any

from bench.cases import FOUR, Setup, Shape, Variant, cpu, usual

if TYPE_CHECKING:
    from bench.published import Problem

SHAPE = FOUR
STEPS = 3
INFERENCE = Variant("inference")
INFERENCE_OWNERS = ("python, torch and transformers", "trainable weights", "frozen weights")
"""Owners that the process for inference has as well."""


def chosen(model: str, every: bool) -> list[Variant]:
    """The variants in the memory table of a model."""
    pairs = [pair for pair in usual(cpu(model), every) if pair.setup == Setup(model)]
    return [variant for pair in pairs for variant in pair.variants]


def label(model: str, variant: Variant) -> str:
    """The label that --only is matched against."""
    return f"memory/{model}/{variant.name}"


def measured(model: str, variant: Variant) -> dict[str, Any]:
    """The measurement of one variant, made in a new process."""
    command = [sys.executable, __file__, model, variant.name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def inference(model: str) -> int:
    """The median peak of three processes for inference; they differ by some MiB."""
    peaks: list[int] = [measured(model, INFERENCE)["peak"] for _ in range(3)]
    return median_low(peaks)


def row(model: str, variant: Variant, inference: int) -> dict[str, Any]:
    """A row of the results."""
    result = measured(model, variant)
    owners = {name: size for name, size in result["owners"].items() if name not in INFERENCE_OWNERS and size}
    peaks = {"peak": result["peak"], "inference": inference, "weights": result["weights"]}
    return {"kind": "memory", "model": model, "step": variant.name, "shape": list(SHAPE), **peaks, "owners": owners}


def main(model: str, name: str) -> None:
    """The process that is measured; `name` is that of a variant, or "inference"."""
    variants = [INFERENCE, *chosen(model, True)]
    [variant] = [variant for variant in variants if variant.name == name]
    with_zoplat = variant is not INFERENCE and not variant.published
    print(json.dumps(zoplat_steps(model, variant) if with_zoplat else bare_steps(model, variant)))


def bare_steps(model: str, variant: Variant) -> dict[str, Any]:
    """Peak, weights and owners for inference or a published step: a transformers model and its loss, no zoplat."""
    from zoplat_devices.memory import HostMemory

    problem, weights = bare_problem(model, "cpu", "float32", SHAPE)
    gc.collect()
    memory = HostMemory()
    memory.reset()
    bare_work(problem, variant)
    return {"peak": memory.read()[1], "weights": weights, "owners": {}}


def bare_problem(model: str, kind: str, dtype: str, shape: Shape) -> tuple[Problem, int]:
    """A transformers model on a device with a batch and its loss, without zoplat's space; and bytes of its weights."""
    import torch

    from bench.models import batch, loader, source
    from bench.published import Problem
    from bench.steps import vocabulary
    from zoplat_devices.pytorch.scoring import Scorer

    loaded = loader(model, kind)(source(model), getattr(torch, dtype), print, "causal")
    scorer = Scorer(loaded.model, torch.device(kind))
    rows = batch(vocabulary(loaded.model), shape)
    problem = Problem(loaded.model, partial(scorer.mean_loss, rows))
    return problem, sum(w.nbytes for w in problem.weights)


def bare_work(problem: Problem, variant: Variant) -> None:
    """Some published steps, or as many forward passes."""
    from bench.published import STEPS as PUBLISHED

    step = PUBLISHED[variant.published](problem).step if variant.published else problem.value
    for _ in range(STEPS):
        step()


def zoplat_steps(model: str, variant: Variant) -> dict[str, Any]:
    """Peak, weights and owners for steps of zoplat, as a run makes them."""
    from bench.models import batch, opened
    from bench.steps import ZoplatStep, vocabulary

    setup = Setup(model)
    session = opened(setup, "cpu")
    rows = batch(vocabulary(session.model), SHAPE)
    gc.collect()
    session.reset_peak()
    step = ZoplatStep(session, setup, variant, rows)
    step.before()
    for _ in range(STEPS - 1):
        step()
    peak = step.profiler.peak.host_peak
    return {"peak": peak, "weights": session.facts["model_bytes"], "owners": session.ledger()}


if __name__ == "__main__":
    main(*sys.argv[1:])
