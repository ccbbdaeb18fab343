"""A step of `zoplat.torch.ZerothOrder` beside a step of a run, same weights and batch: `python -m bench.optimizer`.

Both make steps in turns on the same arrays. Each changes them by what it adds and takes back itself, so that neither
disturbs the other, and what a machine does besides meets both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.models import SameBatch
from zoplat.config.layers import resolve
from zoplat.training.opening import prepared
from zoplat.training.step import Learner
from zoplat_devices.optimizer.zeroth_order import ZerothOrder

METHODS = ("mezo", "lozo", "zo-adam")


def main() -> None:
    """Print medians, and the ratio of the optimizer's to the run's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine with other work")
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    for method in options.methods:
        print(line(method, options.rounds, options.batch_size, options.device, clock), flush=True)


def line(method: str, rounds: int, size: int, device: str, clock: Callable[[], float]) -> str:
    """One method: milliseconds of a step each way, and their ratio round by round."""
    settings = {"estimator": method, "device": device, "batch_size": size, "lr": 1e-9, "evaluate_every": 10**9}
    config = resolve({**settings, "tune": "full"})
    session: Any
    session, profiler, rows = prepared(config)
    batch = rows[:size]
    strategy = session.strategy_for(config.estimator.law, sum(row.length for row in batch))
    learner = Learner(config, session, strategy=strategy)
    optimizer = ZerothOrder(session.model, method, lr=1e-9)
    steps: list[Callable[[], Any]] = [
        lambda: learner.advance(SameBatch(batch), profiler),
        lambda: optimizer.step(lambda: session.scorer.loss(batch)),
    ]
    return f"{method:8} ({strategy}): " + compared(steps, rounds, clock)


def compared(steps: Sequence[Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> str:
    """Medians of both, and the median of their ratios with its quartiles."""
    for step in steps:
        step()
    found: list[tuple[float, ...]] = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)  # neither is always the second
        seconds = dict.fromkeys(order, 0.0)
        for which in order:
            began = clock()
            steps[which]()
            seconds[which] = clock() - began
        found.append((seconds[0], seconds[1], seconds[1] / seconds[0]))
    run, own, ratio = (statistics.median(column) for column in zip(*found, strict=True))
    low, _, high = statistics.quantiles([one[2] for one in found], n=4)
    return f"run {1000 * run:.0f} ms, optimizer {1000 * own:.0f} ms, ratio {ratio:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
