"""Limits that the allocators of torch keep to."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from zoplat_devices.memory import data_within

MAPS = Path("/proc/self/maps")
PAGEOUT, EVERY = 21, 0.01
"""Advice to Linux, of 5.4 and later, and seconds after which it is given again."""
MANY = 1 << 22
"""Entries that torch fills with all of its threads."""


def within(kind: str, limit: int, on_all: bool = False) -> AbstractContextManager[str]:
    """A context in which torch gets no more than so many bytes, with what enforces that.

    Args:
        kind: of the device: "cpu", "cuda" or "mps".
        limit: resident bytes of the process on a processor; bytes for tensors on an accelerator.
        on_all: whether it holds for each card of CUDA, and not for the current one alone.
    """
    if kind == "cpu":
        torch.zeros(MANY).add_(1)  # starts the threads, whose stacks are private memory that is reserved and not used
        return data_within(limit)
    if kind == "cuda":
        cards = range(torch.cuda.device_count()) if on_all else [torch.cuda.current_device()]
        return _fraction(limit, cards)
    return nullcontext("")


@contextmanager
def files_paged_out() -> Iterator[None]:
    """A context in which the pages of weight files do not stay resident after they were read, where Linux can do that.

    They are only given up where they are as in the file, so nothing is lost; read again, they come from the disk.
    """
    if sys.platform != "linux":
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_page_out, args=(done,), daemon=True, name="zoplat-pages")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _page_out(done: threading.Event) -> None:
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    while not done.wait(EVERY):
        for line in MAPS.read_text().splitlines():
            if line.endswith(".safetensors"):
                begin, end = (int(address, 16) for address in line.partition(" ")[0].split("-"))
                advise(begin, end - begin, PAGEOUT)


@contextmanager
def _fraction(limit: int, cards: Sequence[int]) -> Iterator[str]:
    for card in cards:
        whole = torch.cuda.get_device_properties(card).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), card)
    try:
        yield "torch's allocator"
    finally:
        for card in cards:
            torch.cuda.set_per_process_memory_fraction(1.0, card)
