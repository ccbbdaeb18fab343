"""Peak memory of steps above that of forward passes, each in a process of its own.

The peak is the kernel's own counter of resident memory, begun anew when the model is open. A process that only
infers loads the same model, makes forward passes on the same batch, and nothing of zoplat's spaces and kernels.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from functools import partial
from statistics import median_low
from typing import Any

from bench.cases import FOUR, Setup, Way, cpu, usual

SHAPE = FOUR
STEPS = 3
INFERENCE = Way("inference")
OWN = ("python, torch and transformers", "trainable weights", "frozen weights")
"""Owners that a process of inference has too."""


def chosen(model: str, every: bool) -> list[Way]:
    """The ways that a model's table of memory has."""
    pairs = [pair for pair in usual(cpu(model), every) if pair.setup == Setup(model)]
    return [way for pair in pairs for way in pair.ways]


def label(model: str, way: Way) -> str:
    """What --only is matched against."""
    return f"memory/{model}/{way.name}"


def measured(model: str, way: Way) -> dict[str, Any]:
    """What a process of its own says."""
    command = [sys.executable, __file__, model, way.name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def inference(model: str) -> int:
    """The median peak of three processes that infer; they differ by some MiB."""
    peaks: list[int] = [measured(model, INFERENCE)["peak"] for _ in range(3)]
    return median_low(peaks)


def row(model: str, way: Way, inference: int) -> dict[str, Any]:
    """A row of the results."""
    told = measured(model, way)
    owners = {name: size for name, size in told["owners"].items() if name not in OWN and size}
    peaks = {"peak": told["peak"], "inference": inference, "weights": told["weights"]}
    return {"kind": "memory", "model": model, "step": way.name, "shape": list(SHAPE), **peaks, "owners": owners}


def main(model: str, name: str) -> None:
    """Be the process that is measured: model and name of the way, or "inference"."""
    ways = [INFERENCE, *chosen(model, True)]
    [way] = [way for way in ways if way.name == name]
    told = alone(model, way) if way is INFERENCE or way.published else stepping(model, way)
    print(json.dumps(told))


def alone(model: str, way: Way) -> dict[str, Any]:
    """Inference or a published step: a model of transformers, its loss, and nothing else."""
    import torch

    from bench.models import batch, loader, source
    from bench.published import STEPS as PUBLISHED
    from bench.published import Problem
    from bench.steps import vocabulary
    from zoplat_devices.memory import HostMemory
    from zoplat_devices.pytorch.scoring import Scorer

    loaded = loader(model, "cpu")(source(model), torch.float32, print, "causal")
    scorer = Scorer(loaded.model, torch.device("cpu"))
    rows = batch(vocabulary(loaded.model), SHAPE)
    problem = Problem(loaded.model, partial(scorer.mean_loss, rows))
    weights = sum(w.nbytes for w in problem.weights)

    gc.collect()
    memory = HostMemory()
    memory.reset()
    step = PUBLISHED[way.published](problem).step if way.published else problem.value
    for _ in range(STEPS):
        step()
    return {"peak": memory.read()[1], "weights": weights, "owners": {}}


def stepping(model: str, way: Way) -> dict[str, Any]:
    """A step of zoplat as the engine makes it."""
    from bench.models import batch, opened
    from bench.steps import Ours, vocabulary

    setup = Setup(model)
    session = opened(setup, "cpu")
    rows = batch(vocabulary(session.model), SHAPE)
    gc.collect()
    session.reset_peak()
    step = Ours(session, setup, way, rows)
    step.before()
    for _ in range(STEPS - 1):
        step()
    peak = step.profiler.peak.host_peak
    return {"peak": peak, "weights": session.facts["model_bytes"], "owners": session.ledger()}


if __name__ == "__main__":
    main(*sys.argv[1:])
