"""Measure on one GPU what its bars are for, in order of worth, within a time limit, and merge it into the results.

    python bench/gpu.py [--minutes 8] [--part NAME ...] [--only PATTERN] [--tiny] [--device cuda]

Runs the tests for GPUs, measures passes over the weights, steps and their peaks at the shapes of large models (random
weights in bfloat16, created on the device; nothing is downloaded), published steps beside them, the main job, and ten
runs in one process. Results are written after every measurement. What fails or there is no time for is named, there
and on the page, and keeps its earlier results. The parts run in a process of their own, which another replaces if it
dies or hangs.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.deadline import Deadline
from bench.gpu_cases import PARTS
from bench.results import FOLDER, Row, command_of, merge, read
from bench.timing import OutOfTime, frozen_heap

TOTAL = 8.0
"""Minutes that the seconds of the parts are meant for."""
GRACE = 20
"""Seconds after which a part that does not end by itself is ended with its process."""
LEAST = 3
"""Seconds that a part is begun for."""
BEGUN = "begun"
LOST = 3
"""Exit status of a process whose device can't be used any more."""


def main(given: Sequence[str] | None = None) -> None:
    """Run the parts in a process of their own, and the rest in a new one after each that ends too early."""
    given = sys.argv[1:] if given is None else given
    arguments = parser().parse_args(given)
    left = chosen(arguments)
    if arguments.until:
        raise SystemExit(work(arguments, left))
    until = time.time() + 60 * arguments.minutes
    while left:
        command = [sys.executable, __file__, *given, f"--until={until}", "--left", *left]
        status = subprocess.run(command, check=False).returncode
        ended = [row for row in read(arguments.out)["rows"] if row["kind"] == "part" and row["until"] == until]
        for row in ended:
            if row["state"] == BEGUN:
                conclude(arguments.out, row, f"failed: its process ended with status {status}")
        rest = [name for name in left if name not in {row["step"] for row in ended}]
        if rest == left:
            raise SystemExit(f"bench/gpu.py: no part could be begun, exit status {status}.")
        left = rest


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=TOTAL, help="after these the program ends")
    options.add_argument("--part", nargs="*", default=[], choices=PARTS, help="names of parts; all if left out")
    options.add_argument("--only", default="", help="regular expression that finds labels of steps")
    options.add_argument("--rounds", type=int, default=5, help="of every measurement, at least")
    options.add_argument("--seconds", type=float, default=2, help="of every pair of steps, at least")
    options.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options.add_argument("--tiny", action="store_true", help="models of a few kilobytes, to try the program itself")
    options.add_argument("--job-model", default="", help="of the main job: what `zoplat run --model` takes")
    options.add_argument("--out", type=Path, default=FOLDER / "gpu.json", help="file to merge results into")
    options.add_argument("--until", type=float, default=0, help=argparse.SUPPRESS)
    options.add_argument("--left", nargs="*", default=[], help=argparse.SUPPRESS)
    return options


def chosen(arguments: argparse.Namespace) -> list[str]:
    """The names of the parts that are to be run, in order of worth."""
    return [name for name in PARTS if name in (arguments.left or arguments.part or PARTS)]


def work(arguments: argparse.Namespace, left: Sequence[str]) -> int:
    """Run parts in this process; returns its exit status."""
    from bench import gpu_parts, models

    models.load_code()  # before the heap is frozen
    with frozen_heap():
        for place, name in enumerate(left):
            seconds = limit(left[place:], arguments.until - time.time(), arguments.minutes / TOTAL)
            faulthandler.dump_traceback_later(seconds + GRACE, exit=True)
            measure(name, seconds, arguments)
            faulthandler.cancel_dump_traceback_later()
            if not gpu_parts.is_usable(arguments.device):
                return LOST
    return 0


def limit(left: Sequence[str], seconds: float, scale: float) -> float:
    """The time limit of the first of some parts that have so many seconds together.

    It has what the others are not expected to need, or what it is expected to need itself if that is more.
    """
    own, *later = (scale * PARTS[name] for name in left)
    return max(seconds - sum(later), min(own, seconds))


def measure(name: str, seconds: float, arguments: argparse.Namespace) -> None:
    """Run a part and write down its rows and how it ended."""
    from bench import gpu_parts as parts

    began, state = time.monotonic(), "done"
    context = parts.Context(arguments, command_of("python bench/gpu.py", parser(), arguments), Deadline(seconds))
    row: Row = {"kind": "part", "step": name, "until": arguments.until, "state": BEGUN}
    merge(arguments.out, context.run, [row])
    try:
        with context.deadline:
            if seconds < LEAST:
                raise OutOfTime
            for run, rows in parts.WORKS[name](context):
                merge(arguments.out, run, rows)
                print(*map(parts.shown, rows), sep="\n", flush=True)
    except parts.Skipped as problem:
        state = f"skipped: {problem}"
    except Exception as problem:
        state = f"failed: {parts.reason(problem)}"
    if state == "done" and (context.left or seconds < LEAST or context.deadline.is_over):
        state, context.left = "out of time", context.left or [name]
    row |= {"left": context.left, "failed": context.failed, "seconds": round(time.monotonic() - began, 1)}
    conclude(arguments.out, row, state)


def conclude(out: Path, row: Row, state: str) -> None:
    """Write down and print how a part ended."""
    content = read(out)
    [run] = [content["runs"][r["run"]] for r in content["rows"] if r["kind"] == "part" and r["step"] == row["step"]]
    row = {**{key: value for key, value in row.items() if key != "run"}, "state": state}
    merge(out, run, [row])
    print(f"{row['step']}: {state}", *(f"  {label}: not measured" for label in row.get("left", ())), sep="\n")
    print(*(f"  {label}: {reason}" for label, reason in row.get("failed", {}).items()), sep="\n", end="", flush=True)


if __name__ == "__main__":
    main()
