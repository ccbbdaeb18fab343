"""A forward pass alone, beside a process that computes, and beside another one of its kind, at a length of waits.

    python bench/beside.py
    GOMP_SPINCOUNT=300000 python bench/beside.py

The model is OPT-125M in shape, with random weights; the batch 4 × 64 tokens. Milliseconds, medians.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from bench.cases import Setup
from bench.models import opened
from bench.steps import bare
from bench.suite import rows_of

SHAPE, WARM, ROUNDS = (4, 64), 3, 21
OTHERS = {
    "alone": "",
    "beside a process that computes": "while True: pass",
    "beside another run": "from bench.beside import forward\nwork = forward()\nwhile True: work()",
}
SETTLED = 15
"""Seconds that another process gets to begin."""


def forward() -> Callable[[], None]:
    """A forward pass, ready to be called."""
    session = opened(Setup("opt-125m"), "cpu")
    return bare(session, rows_of(session, SHAPE))


def main() -> None:
    """Print a line for each neighbour."""
    work = forward()
    for name, program in OTHERS.items():
        other = subprocess.Popen([sys.executable, "-c", program]) if program else None
        try:
            time.sleep(SETTLED if other else 0)
            for _ in range(WARM):
                work()
            seconds = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - began)
            print(f"{name}: {1e3 * median(seconds):,.0f} ms", flush=True)
        finally:
            if other:
                other.kill()
                other.wait()


if __name__ == "__main__":
    main()
