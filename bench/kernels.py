"""What a pass over the weights costs beside reading and writing them: every law, one term and two.

    python bench/kernels.py [--millions N]

The floor is an in-place numpy addition to the same float32 array, halved between two threads; medians of
interleaved rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoplat import Block, Direction, Key, Sampler
from zoplat.plugins import catalogue
from zoplat_devices import native
from zoplat_devices.fused import FusedSpace

COLUMNS = 576
LAWS = ("rademacher", "gaussian", "low-rank")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=134, help="weights, in millions")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    theta = np.full((arguments.millions * 1_000_000 // COLUMNS, COLUMNS), 0.01, np.float32)
    kernels = native.kernels()
    if kernels is None:
        raise SystemExit("no compiler is at hand, so there are no kernels to measure")
    space = FusedSpace([Block("w", theta)], kernels, np.empty, "in-place")
    works: dict[str, Callable[[], None]] = {"floor": floor(theta)}
    for name in LAWS:
        for terms in (1, 2):
            works[f"{name} × {terms}"] = pass_of(space, catalogue().entry("sampler", name).value, terms)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    least = statistics.median(seconds["floor"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:<16} {1000 * median:7.1f} ms  {median / least:5.2f} × floor  {1e9 * median / theta.size:6.3f} ns")


def floor(theta: np.ndarray) -> Callable[[], None]:
    """Read and write every weight once."""
    pool, halves = ThreadPoolExecutor(2), np.array_split(theta, 2)

    def work() -> None:
        list(pool.map(lambda half: np.add(half, np.float32(1e-3), out=half), halves))

    return work


def pass_of(space: FusedSpace, law: Sampler, terms: int) -> Callable[[], None]:
    """One pass that adds `terms` draws of a law; the same draws each time, as a probe comes back."""
    direction = sum((1e-6 * space.draw(law, Key(0, 0, draw)) for draw in range(terms)), Direction())

    def work() -> None:
        space.add(direction)
        space.settle()

    return work


if __name__ == "__main__":
    main()
