"""What a step costs beside its forward passes: bare forward, our steps and the published one, interleaved.

    python bench/step.py [--model M] [--rounds N] [--json FILE]

All weights of the model are trained, in float32. Every ratio is the seconds of a step over (its forward
passes × a bare forward pass on the same batch, timed right before and after), medians over the rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from zoplat import Example, ModelSpec, Row, Session
from zoplat.batches import Batches
from zoplat.device import Tuning
from zoplat.learner import Learner
from zoplat.profiler import Profiler
from zoplat.settings import resolve
from zoplat_devices.encoding import Tokens

SHAPES = {(16, 64): 1, (4, 64): 2, (1, 32): 4}
"""(rows, tokens) of a batch, and how many rounds more than the longest it gets."""
METHODS: dict[str, dict[str, Any]] = {
    "mezo gaussian": {"estimator": "mezo"},
    "mezo rademacher": {"estimator": "mezo", "sampler": "rademacher"},
    "lozo": {"estimator": "lozo"},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the packaged one")
    parser.add_argument("--rounds", type=int, default=3, help="of the largest batch")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    config = resolve({"device": "cpu", "model": arguments.model, "tune": "full", "dtype": "float32"})
    session = config.device.open(ModelSpec(arguments.model, Tuning("full"), "float32", 0))
    figures = []
    print(f"{session.facts['model']}, all weights, float32, {session.facts['threads']} threads")
    print(f"{'rows × tokens':<14} {'bare ms':>8}  " + "  ".join(f"{name:>16}" for name in [*METHODS, "published mezo"]))
    for shape, more in SHAPES.items():
        row = measure(session, shape, more * arguments.rounds)
        figures.append(row)
        cells = "  ".join(f"{ratio['median']:6.3f} ± {ratio['spread']:<5.3f}  " for ratio in row["ratios"].values())
        print(f"{shape[0]:>3} × {shape[1]:<8} {row['bare_ms']:>8.1f}  {cells}", flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"model": session.facts["model"], "versions": session.facts["versions"], "rows": figures}, file)


def measure(session: Session, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Ratios of every method at one shape."""
    rows = batch(*shape)
    steps: dict[str, Callable[[], None]] = {name: ours(session, rows, given) for name, given in METHODS.items()}
    steps["published mezo"] = published(session, rows)
    bare: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            session.space.settle()
            step()  # brings the remembered moves into the state they have within a run
            before = seconds(lambda: float(session.forward(rows)))
            taken = seconds(step)
            after = seconds(lambda: float(session.forward(rows)))
            bare += [before, after]
            ratios[name].append(taken / (before + after))
    return {
        "shape": shape,
        "bare_ms": 1000 * statistics.median(bare),
        "ratios": {name: {"median": statistics.median(r), "spread": spread(r)} for name, r in ratios.items()},
    }


def batch(count: int, length: int) -> list[Row]:
    """Rows of exactly `length` tokens whose two options are single tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 20000, (count, length), generator=generator).tolist()
    example = Example("", (" terrible", " great"), 1)
    return [Row(example, length, Tokens([tokens], [[300], [301]])) for tokens in ids]


class Same(Batches):
    """The same batch at every step."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__(rows, len(rows), 0)

    def at(self, step: int) -> list[Row]:
        return [*self.rows]


def ours(session: Session, rows: list[Row], given: dict[str, Any]) -> Callable[[], None]:
    """A step as the engine makes it, profiler included."""
    config = resolve({"device": "cpu", "tune": "full", "dtype": "float32", "evaluate_every": 10**9, **given})
    learner = Learner(config, session)
    profiler = Profiler(session.memory, session.reset_peak)

    def step() -> None:
        session.space.watch = profiler.phase
        learner.advance(Same(rows), profiler)

    return step


def published(session: Session, rows: list[Row], lr: float = 1e-6, eps: float = 1e-3) -> Callable[[], None]:
    """The step of the MeZO paper's release in our words: four passes, a new normal tensor for each weight."""

    def pass_over(factor: float, seed: int) -> None:
        torch.manual_seed(seed)
        for block in session.space.blocks:
            z = torch.normal(mean=0.0, std=1.0, size=block.array.shape, dtype=block.array.dtype)
            block.array.copy_(block.array + z * factor)

    def step() -> None:
        seed = int(torch.randint(10**9, (1,)))
        pass_over(eps, seed)
        up = float(session.forward(rows))
        pass_over(-2 * eps, seed)
        down = float(session.forward(rows))
        pass_over(eps, seed)
        pass_over(-lr * (up - down) / (2 * eps), seed)

    return step


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles."""
    quartiles = statistics.quantiles(values, n=4)
    return (quartiles[2] - quartiles[0]) / 2


if __name__ == "__main__":
    main()
