"""Measure steps and their peak memory on one GPU, at the shapes of large models, and merge them into the results.

    python bench/gpu.py [--minutes 8] [--only PATTERN]

Weights are random, in bfloat16, and created on the device; nothing is downloaded. Cases that there is no time left for
are named, and keep their earlier results.
"""

from __future__ import annotations

import argparse
import gc
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from bench.cases import ON_CUDA, gpu
from bench.results import FOLDER, command_of, merge
from bench.suite import Bench, Task, line, tasks_of
from bench.timing import OutOfTime

TINY = (2, 8)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and merge, pair by pair, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="after these the program ends")
    parser.add_argument("--only", default="", help="regular expression that finds labels")
    parser.add_argument("--rounds", type=int, default=3, help="of every pair, at least")
    parser.add_argument("--seconds", type=float, default=5, help="of every pair, at least")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--tiny", action="store_true", help="use a model of a few kilobytes, to test the program itself"
    )
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu.json", help="file to merge results into")
    arguments = parser.parse_args(given)
    models, shapes = (["tiny"], [TINY]) if arguments.tiny else (ON_CUDA, [])
    left = tasks_of([pair for model in models for pair in gpu(model)], arguments.only, shapes)
    bench = Bench(arguments.device, arguments.rounds, arguments.seconds, peaks=True)
    command = command_of("python bench/gpu.py", parser, arguments)
    with Deadline(arguments.minutes) as deadline:
        while left and not deadline.is_over:
            measure(bench, left, command, arguments.out, deadline)
    for pair, shape in left:
        print(f"{pair.label(shape)}: not measured, time is over")


def measure(bench: Bench, left: list[Task], command: str, out: Path, deadline: Deadline) -> None:
    """Measure the tasks that are left and remove them from the list, until none is left or memory runs out."""
    try:
        for run, rows in bench.run([*left], command):
            merge(out, run, rows)
            print(*map(line, rows), sep="\n", flush=True)
            if deadline.is_over:
                return
            left.pop(0)
    except torch.OutOfMemoryError as problem:
        print(f"{left.pop(0)[0].key}: {str(problem).partition('. ')[0]}")
    gc.collect()
    torch.cuda.empty_cache()


class Deadline:
    """A context that raises OutOfTime in its body after so many minutes, and suppresses it outside.

    Attributes:
        is_over: whether the time is over.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.is_over = False

    def __enter__(self) -> Deadline:
        self.before = signal.signal(signal.SIGALRM, self.over)
        signal.setitimer(signal.ITIMER_REAL, 60 * self.minutes)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        return kind is OutOfTime

    def over(self, *_: object) -> NoReturn:
        """Signal handler: raise OutOfTime."""
        self.is_over = True
        raise OutOfTime


if __name__ == "__main__":
    main()
