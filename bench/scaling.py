"""Measure steps of 1, 2 and 4 ranks in network namespaces with delay and loss, and merge them into the results.

    python bench/scaling.py [--rounds 5] [--only PATTERN]

Takes root, iproute2 and /dev/net/tun; see bench/network.py. All ranks make two-sided MeZO on one thread each. In the
setup "stand-in" they have a transformer of 0.3 million weights, and a forward pass takes a fixed time for each row by
sleeping, so that more ranks than processors do not wait for each other. In "real" they have one of 10 million weights,
and nothing sleeps. Every round has every case once. Ranks get a processor before other work on the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.network import Network, first_of_all
from bench.results import FOLDER, Row, command_of, merge, run_of
from bench.streaming import write

SIZES = (1, 2, 4)
LINES = ((0.0, 0.0), (0.01, 0.0), (0.05, 0.0), (0.05, 0.01))
"""Delay in seconds, one way, and the share of packets that is lost."""
ROWS, QUERIES = 8, 2
"""Of a step: four points, on eight rows."""
ROW_SECONDS = {"stand-in": 0.01, "real": 0.0}
"""What a forward pass sleeps for each row."""
LAYERS_WIDTH = {"stand-in": (1, 32), "real": (4, 384)}
WARM_UP = 3
PORT = 29500
LIMIT = 120.0
"""Seconds after which a rank gives up another."""


@dataclass(frozen=True)
class Case:
    """Steps that are measured.

    Attributes:
        setup: "stand-in" or "real".
        parallel: "data" or "queries".
        size: number of ranks.
        delay: in seconds, one way.
        loss: share of packets.
        rows: of the batch.
        queries: of a step; it has twice as many points. 0 for exchanges alone.
        of: one rank computes as few points as if there were so many.
    """

    setup: str
    parallel: str
    size: int
    delay: float = 0.0
    loss: float = 0.0
    rows: int = ROWS
    queries: int = QUERIES
    of: int = 1

    @property
    def label(self) -> str:
        """A name for the command line."""
        line = f"{1000 * self.delay:g}ms/{self.loss:g}"
        of = f"/1of{self.of}" if self.of > 1 else ""
        return f"{self.setup}/{self.parallel}/{self.size}/{line}/{self.rows}x{self.queries}{of}"

    @property
    def steps(self) -> int:
        """Measured in each round; more where a mean depends on rare losses."""
        return 60 if self.loss else 15

    @property
    def row(self) -> Row:
        """What identifies the case among results."""
        return {"kind": "ranks", "pair": self.parallel, "step": self.label, **asdict(self)}


def cases() -> Iterator[Case]:
    """All cases: steps of one rank, from which the model is fitted; exchanges alone; and steps of several."""
    for setup in ROW_SECONDS:
        for rows in (ROWS, ROWS // 2, ROWS // 4):
            yield Case(setup, "data", 1, rows=rows)
        yield Case(setup, "queries", 1, of=2)
    for size in SIZES[1:]:
        yield Case("stand-in", "data", size, queries=0)
        for delay, loss in LINES:
            for parallel in ("data", "queries"):
                yield Case("stand-in", parallel, size, delay, loss)
    for delay in (0.0, 0.05):
        for parallel in ("data", "queries"):
            yield Case("real", parallel, 2, delay)


def main() -> None:
    """Measure, print and merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="regular expression that finds cases by label")
    parser.add_argument("--list", action="store_true", help="print labels and measure nothing")
    parser.add_argument("--out", type=Path, default=FOLDER / "scaling.json", help="file to merge results into")
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [case for case in cases() if re.search(arguments.only, case.label)]
    if arguments.rank:
        serve(*arguments.rank)
    elif arguments.list:
        print(*[case.label for case in chosen], sep="\n")
    else:
        run = run_of(command_of("python bench/scaling.py", parser, arguments))
        merge(arguments.out, {**run, "threads": 1}, measured(chosen, arguments.rounds))


def measured(chosen: Sequence[Case], rounds: int) -> list[Row]:
    """A row for each case."""
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in chosen}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for setup, (layers, width) in LAYERS_WIDTH.items():
            (folder / setup).mkdir()
            write(folder / setup, layers, width)
        wanted = sorted({(case.setup, case.size) for case in chosen})
        groups = {
            (setup, size): Group(stack.enter_context(Network(size)), folder / setup, setup) for setup, size in wanted
        }
        for _ in range(rounds):
            for case in chosen:
                found[case].append(groups[case.setup, case.size].measured(case))
                print(f"{case.label:34} {1000 * statistics.mean(found[case][-1]['seconds']):7.1f} ms", flush=True)
    return [row_of(case, parts) for case, parts in found.items()]


def row_of(case: Case, parts: Sequence[dict[str, Any]]) -> Row:
    """What was measured of a case; times of rank 0, bytes of the rank that sent most."""
    seconds = [one for part in parts for one in part["seconds"]]
    quartiles = statistics.quantiles(seconds, n=4)
    times = {"median": statistics.median(seconds), "mean": statistics.mean(seconds)}
    times |= {"low": quartiles[0], "high": quartiles[2]}
    row = {**case.row, "steps": len(seconds), **{name: round(1000 * value, 3) for name, value in times.items()}}
    for name in ("sent", "line", "packets"):
        row[name] = round(statistics.median(part[name] for part in parts), 1)
    return row


class Group:
    """Some ranks in namespaces of their own, which measure cases on demand.

    Args:
        network: the namespaces; at its end the ranks end.
        model: folder of the model.
        setup: see `Case`.
    """

    def __init__(self, network: Network, model: Path, setup: str) -> None:
        self.network, self.size = network, network.size
        given = {"WORLD_SIZE": str(self.size), "MASTER_ADDR": network.address(0), "MASTER_PORT": str(PORT)}
        environment = {**os.environ, **given, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--rank", str(model), setup]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.ranks = [
            network.start(node, command, env={**environment, "RANK": str(node)}, **pipes) for node in range(self.size)
        ]
        self._answers()

    def measured(self, case: Case) -> dict[str, Any]:
        """Seconds of the steps on rank 0, and for each step bytes and packets of the rank that sent most."""
        self.network.set(case.delay, case.loss)
        before = [self.network.counters(node) for node in range(self.size)]
        for rank in self.ranks:
            assert rank.stdin
            rank.stdin.write(json.dumps(asdict(case)) + "\n")
            rank.stdin.flush()
        answers = self._answers()
        time.sleep(0.3 + 4 * case.delay)  # receipts under way
        after = [self.network.counters(node) for node in range(self.size)]
        self.network.set(0.0, 0.0)
        made = WARM_UP + case.steps
        sent = [{name: b[name] - a[name] for name in b} for a, b in zip(before, after, strict=True)]
        return {
            "seconds": answers[0]["seconds"],
            "sent": max(answer["sent"] for answer in answers) / made,
            "line": max(one["tx_bytes"] for one in sent) / made,
            "packets": max(one["tx_packets"] for one in sent) / made,
        }

    def _answers(self) -> list[dict[str, Any]]:
        found = []
        for rank in self.ranks:
            assert rank.stdout
            line = rank.stdout.readline()
            if not line:
                raise SystemExit("A rank has ended; its message is above.")
            found.append(json.loads(line))
        return found


def serve(folder: str, setup: str) -> None:
    """One rank: open the model, meet the others, and measure each case that standard input asks for."""
    import torch

    from bench.scaling_rank import Rank

    torch.set_num_threads(1)
    first_of_all()
    rank = Rank(Path(folder), ROW_SECONDS[setup], LIMIT)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        case = Case(**json.loads(line))
        found = rank.measured(case.parallel, case.rows, case.queries, case.of, WARM_UP + case.steps)
        print(json.dumps({**found, "seconds": found["seconds"][WARM_UP:]}), flush=True)


if __name__ == "__main__":
    main()
