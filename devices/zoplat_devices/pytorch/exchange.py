"""Numbers between processes through torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from zoplat.core.errors import RunFailed
from zoplat.core.exchange import Exchange

T = TypeVar("T")


class TorchExchange(Exchange):
    """The processes that torchrun or accelerate launch has started, connected by gloo.

    A step exchanges some hundred bytes that the host has already, so gloo serves GPUs too: nothing waits for a queue.

    Args:
        kind: of the device: with "cuda" each process takes the GPU of its number on the machine.
        seconds: after which a rank that does not answer is given up.
    """

    def __init__(self, kind: str, seconds: float) -> None:
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        self.seconds, patience = seconds, timedelta(seconds=seconds)
        if not dist.is_initialized():
            store, rank, size = next(dist.rendezvous("env://", timeout=patience))
            store = dist.PrefixStore(f"zoplat/{_attempt()}", store)
            dist.init_process_group("gloo", timeout=patience, store=store, rank=rank, world_size=size)
        self._group = dist.new_group(backend="gloo", timeout=patience)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        own = torch.tensor(numbers, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._tried(lambda: dist.all_gather(found, own, group=self._group))
        self.sent += own.nbytes * (self.size - 1)
        return [row.tolist() for row in found]

    def broadcast(self, data: bytes, length: int) -> bytes:
        words = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(length, dtype=torch.uint8)
        self._tried(lambda: dist.broadcast(words, 0, group=self._group))
        self.sent += 0 if self.rank else length * (self.size - 1)
        return words.numpy().tobytes()

    def _tried(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except RuntimeError as problem:
            raise RunFailed(
                f"Rank {self.rank} of {self.size} got no answer from another rank within {self.seconds:g} s, or lost "
                f"it: {str(problem).splitlines()[0][:200]}. Look at the messages of the others. The journal has every "
                "step made so far: start all ranks again with --resume. Slow evaluations need a longer --rank-timeout."
            ) from problem


def _attempt() -> str:
    """Which start of the processes this is: torchrun on one machine keeps the addresses of those that it has ended.

    On several machines it counts starts on each by itself, and makes a new store for every one.
    """
    is_alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_alone else "0"
