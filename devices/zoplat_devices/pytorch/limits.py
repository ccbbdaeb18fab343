"""Limits that the allocators of torch keep to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from zoplat_devices.memory import data_within

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
def _fraction(limit: int, cards: Sequence[int]) -> Iterator[str]:
    for card in cards:
        whole = torch.cuda.get_device_properties(card).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), card)
    try:
        yield "torch's allocator"
    finally:
        for card in cards:
            torch.cuda.set_per_process_memory_fraction(1.0, card)
