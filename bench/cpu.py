"""Measure steps, memory and passes over the weights on a CPU, and merge them into the results.

    python bench/cpu.py [--only PATTERN] [--all] [--list]

Labels: step/MODEL/TUNE/DTYPE/PAIR/ROWSxTOKENS, memory/MODEL/STEP, pass/DTYPE. Every ratio is the seconds of a step over
(its forward passes × a bare forward pass on the same batch, timed right before and after).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import memory, passes
from bench.cases import ON_CPU, cpu, usual
from bench.results import FOLDER, Row, command_of, merge, run_of
from bench.suite import Bench, line, shape_of, tasks_of

PASSES = 15
"""Rounds of a pass over the weights; each takes about a tenth of a second."""


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and merge, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression that finds labels")
    parser.add_argument("--all", action="store_true", help="also the cases that the page does not need")
    parser.add_argument("--list", action="store_true", help="print labels and measure nothing")
    parser.add_argument("--model", help="in place of the table's models: what `zoplat run --model` takes, or 'tiny'")
    parser.add_argument("--shape", nargs="*", default=[], help="in place of the table's shapes: ROWSxTOKENS")
    parser.add_argument("--rounds", type=int, default=3, help="of every pair, at least")
    parser.add_argument("--seconds", type=float, default=8, help="of every pair, at least")
    parser.add_argument("--cpu", action="store_true", help="print CPU time; both clocks are recorded")
    parser.add_argument("--out", type=Path, default=FOLDER / "cpu.json", help="file to merge results into")
    arguments = parser.parse_args(given)
    command = command_of("python bench/cpu.py", parser, arguments)
    for run, rows in measured(arguments, command):
        merge(arguments.out, run, rows)
        for row in rows:
            print(line(row, "cpu" if arguments.cpu else "wall"), flush=True)


def measured(arguments: argparse.Namespace, command: str) -> Iterator[tuple[Row, list[Row]]]:
    """(run, rows) after each group of cases; with --list, labels are printed and nothing is measured."""
    pairs = usual([pair for model in models(arguments) for pair in cpu(model)], arguments.all)
    tasks = tasks_of(pairs, arguments.only, [*map(shape_of, arguments.shape)])
    variants = [(model, variant) for model in models(arguments) for variant in memory.chosen(model, arguments.all)]
    variants = [case for case in variants if re.search(arguments.only, memory.label(*case))]
    types = [dtype for dtype in passes.DTYPES if re.search(arguments.only, passes.label(dtype))]
    if arguments.list:
        labels = [pair.label(shape) for pair, shape in tasks] + [memory.label(*case) for case in variants]
        print(*labels, *map(passes.label, types), sep="\n")
        return
    yield from Bench("cpu", arguments.rounds, arguments.seconds).run(tasks, command)
    inference = {model: memory.inference(model) for model in dict.fromkeys(model for model, _ in variants)}
    for model, variant in variants:
        yield run_of(command), [memory.row(model, variant, inference[model])]
    for dtype in types:
        yield run_of(command), passes.rows(dtype, PASSES)


def models(arguments: argparse.Namespace) -> Sequence[str]:
    """The model of the flags, or those of the table."""
    return [arguments.model] if arguments.model else ON_CPU


if __name__ == "__main__":
    main()
