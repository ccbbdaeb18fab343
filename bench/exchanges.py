"""Measure ways to bring 16 numbers of every rank to all ranks, over a line with delay: `python bench/exchanges.py`.

Ranks are processes in network namespaces (bench/network.py). Each way is called some times with a pause before each, in
which a rank of a run would compute; rank 0 prints medians, means, and the bytes that its interface has sent for each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.network import DEVICE, Network, first_of_all
from zoplat_devices.pytorch.exchange import TorchExchange

NUMBERS, PAUSE, CALLS = 16, 0.15, 10
PORT = 29500


def main() -> None:
    """Start the ranks, which print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--delay", type=float, default=0.05, help="seconds of a packet, one way")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        measure()
        return
    for size in arguments.sizes:
        with Network(size, arguments.delay) as network:
            given = {"WORLD_SIZE": str(size), "MASTER_ADDR": network.address(0), "MASTER_PORT": str(PORT)}
            environment = {**os.environ, **given, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--rank"]
            ranks = [network.start(node, command, env={**environment, "RANK": str(node)}) for node in range(size)]
            for rank in ranks:
                rank.wait()


def measure() -> None:
    """One rank: every way in turn."""
    first_of_all()
    exchange = TorchExchange("cpu", 60.0)
    for name, call in ways(exchange).items():
        call()
        seconds, before = [], sent()
        for _ in range(CALLS):
            time.sleep(PAUSE)
            began = time.perf_counter()
            call()
            seconds.append(1000 * (time.perf_counter() - began))
        if exchange.rank == 0:
            times = f"median {statistics.median(seconds):6.1f} ms, mean {statistics.mean(seconds):6.1f} ms"
            print(f"{exchange.size} ranks, {name:19} {times}, {(sent() - before) / CALLS:5.0f} bytes", flush=True)


def ways(exchange: TorchExchange) -> dict[str, Callable[[], Any]]:
    """Each by name."""
    size, rank = exchange.size, exchange.rank
    own = torch.arange(NUMBERS, dtype=torch.float64)

    def all_gather() -> None:
        dist.all_gather([torch.empty_like(own) for _ in range(size)], own)

    def all_to_all() -> None:
        dist.all_to_all_single(torch.empty(NUMBERS * size, dtype=own.dtype), own.repeat(size))

    def gather_and_broadcast() -> None:
        rows = [torch.empty_like(own) for _ in range(size)] if rank == 0 else None
        dist.gather(own, rows)
        dist.broadcast(torch.cat(rows) if rows else torch.empty(NUMBERS * size, dtype=own.dtype), 0)

    def all_reduce() -> None:
        dist.all_reduce(torch.zeros(NUMBERS * size, dtype=own.dtype))

    named = (all_gather, all_to_all, gather_and_broadcast, all_reduce)
    return {each.__name__: each for each in named} | {"zoplat": lambda: exchange.all_gather(own.tolist())}


def sent() -> int:
    """Bytes that this rank's interface has sent."""
    return int(Path("/sys/class/net", DEVICE, "statistics/tx_bytes").read_text())


if __name__ == "__main__":
    main()
