"""Numbers between processes through torch.distributed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import torch
import torch.distributed as dist

from zoplat.core.errors import RunFailed
from zoplat.core.exchange import TURN, Exchange

T = TypeVar("T")
TURNS, NUMBERS, BYTES = range(3)
"""Tags of messages: those of turns are asked for before their turn, so others must not be taken for them."""
LOOK_EVERY = 0.01
"""Seconds between two looks of rank 0 for ranks that have started."""
DISCARD = 9
"""A port to which nothing is sent; which way leads to a machine does not depend on the port."""


@dataclass
class _Receiving:
    """Numbers of all ranks that are on their way; the own are filled in when they are known."""

    rows: list[torch.Tensor]
    works: list[Any]


class TorchExchange(Exchange):
    """The processes that torchrun or accelerate launch has started, connected by gloo.

    A step exchanges some hundred bytes that the host has already, so gloo serves GPUs too: nothing waits for a queue.
    Every rank sends its numbers to every other, and has asked for theirs when it got those before: gloo sends no number
    before it was asked for, so this way one takes the time of one message, not of a round trip. gloo's own all-gather
    is a ring and takes n − 1 round trips. Its collectives are also the work of threads that release their tensors
    some time after they are done: where that is as Python ends, on a busy machine, the process aborts.

    Args:
        kind: of the device: with "cuda" each process takes the GPU of its number on the machine.
        seconds: after which a rank that does not answer is given up.
    """

    def __init__(self, kind: str, seconds: float) -> None:
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        self.seconds = seconds
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._group = self._tried(self._connected)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._others = [rank for rank in range(self.size) if rank != self.rank]
        self._next: _Receiving | None = None

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        own = torch.tensor(numbers, dtype=torch.float64)
        found = self._tried(lambda: self._exchanged(own))
        self.sent += own.nbytes * (self.size - 1)
        return [row.tolist() for row in found]

    def broadcast(self, data: bytes, length: int) -> bytes:
        words = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(length, dtype=torch.uint8)
        self._tried(lambda: self._given(words))
        self.sent += 0 if self.rank else length * (self.size - 1)
        return words.numpy().tobytes()

    def _connected(self) -> Any:
        patience = timedelta(seconds=self.seconds)
        if not dist.is_initialized():
            if found := interface():
                os.environ.setdefault("GLOO_SOCKET_IFNAME", found)
            store, rank, size = next(dist.rendezvous("env://", timeout=patience))
            store = dist.PrefixStore(f"zoplat/{shared_name(store, rank, size, self.seconds)}", store)
            dist.init_process_group("gloo", timeout=patience, store=store, rank=rank, world_size=size)
        return dist.new_group(backend="gloo", timeout=patience)

    def _exchanged(self, own: torch.Tensor) -> list[torch.Tensor]:
        """The numbers of all ranks; those of the next turn are asked for already, as all turns have as many."""
        is_turn = len(own) == TURN
        found = self._next if is_turn and self._next else self._asked(len(own))
        if is_turn:
            self._next = self._asked(TURN)
        sent = [dist.isend(own, rank, group=self._group, tag=TURNS if is_turn else NUMBERS) for rank in self._others]
        for work in (*found.works, *sent):
            work.wait()
        found.rows[self.rank] = own
        return found.rows

    def _asked(self, length: int) -> _Receiving:
        rows = [torch.empty(length, dtype=torch.float64) for _ in range(self.size)]
        tag = TURNS if length == TURN else NUMBERS
        return _Receiving(rows, [dist.irecv(rows[rank], rank, group=self._group, tag=tag) for rank in self._others])

    def _given(self, words: torch.Tensor) -> None:
        """Send bytes from rank 0 to all others, which receive them in `words`."""
        if self.rank:
            works = [dist.irecv(words, 0, group=self._group, tag=BYTES)]
        else:
            works = [dist.isend(words, rank, group=self._group, tag=BYTES) for rank in self._others]
        for work in works:
            work.wait()

    def _tried(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except RuntimeError as problem:
            raise RunFailed(
                f"Rank {self.rank} of {self.size} got no answer from another rank within {self.seconds:g} s, or lost "
                f"it: {str(problem).splitlines()[0][:200]}. Look at the messages of the others. The journal has every "
                "step made so far: start all ranks again with --resume. Slow evaluations need a longer --rank-timeout."
            ) from problem


def shared_name(store: dist.Store, rank: int, size: int, seconds: float) -> str:
    """A name that these processes share, and no others that torchrun has started before: it keeps one store for all.

    How often it has started some is counted on each machine by itself, and so is no such name. Rank 0 makes one and
    answers who asks, under the name of who asks: nobody takes an answer that was given to an earlier process.

    Raises:
        RuntimeError: another process has not asked or answered in time.
    """
    own = uuid4().hex
    if rank:
        store.set(f"zoplat/asks/{rank}", own)
        name = store.get(f"zoplat/answers/{own}").decode()
        store.set(f"zoplat/has/{name}/{rank}", "")
        return name
    waiting, deadline = set(range(1, size)), time.monotonic() + seconds
    while waiting:
        for other in waiting:
            if store.check([f"zoplat/asks/{other}"]):
                store.set(f"zoplat/answers/{store.get(f'zoplat/asks/{other}').decode()}", own)
        waiting = {other for other in waiting if not store.check([f"zoplat/has/{own}/{other}"])}
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {', '.join(map(str, sorted(waiting)))} has not started")
        time.sleep(LOOK_EVERY)
    return own


def interface() -> str | None:
    """The network interface that leads to rank 0; gloo takes that of the host's name, which is often the loopback."""
    try:
        family, _, _, _, address = socket.getaddrinfo(os.environ["MASTER_ADDR"], DISCARD, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect(address)
            own = one.getsockname()[0]
    except OSError:
        return None
    found = (name for name, addresses in psutil.net_if_addrs().items() if own in [each.address for each in addresses])
    return next(found, None)
