"""Tensors in files that are mapped into memory: read when they are used, evicted and prefetched on request."""

from __future__ import annotations

import ctypes
import math
import mmap
from pathlib import Path
from typing import Any

import torch

from zoplat_devices.memory import reserved
from zoplat_devices.pytorch.pages import movable

LINE = 64
"""Bytes of a cache line."""
MAPS = Path("/proc/self/maps")


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in a file without a name, zero at first; its file descriptor is open only while it is made."""
    with torch.inference_mode(False), reserved(math.prod(shape) * dtype.itemsize) as file:
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def move_to_files(model: Any) -> None:
    """Move each parameter that is trained, or that is not mapped from a checkpoint, into a file of its own.

    Its offset within a cache line is the one it would have in memory, because the rounding of a matrix-vector product
    depends on it.
    """
    known, aligned = files(), {*movable(model)}
    moved: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        address = parameter.data_ptr()
        if parameter.numel() and (parameter.requires_grad or not lies_in(known, parameter)):
            if address not in moved:
                moved[address] = _copied(parameter, 0 if address in aligned else address % LINE)
            if lies_in(known, parameter):
                evict(parameter)
            parameter.data = moved[address]


def _copied(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy in a file, so many bytes into a cache line."""
    before = offset // tensor.element_size()
    held = mapped((before + tensor.numel(),), tensor.dtype)[before:].view(tensor.shape)
    held.copy_(tensor.detach())
    evict(held)
    return held


def files() -> list[tuple[int, int]]:
    """First and last address of everything that is mapped from a file; empty where the system does not list it."""
    if not MAPS.exists():
        return []
    lines = [line.split() for line in MAPS.read_text().splitlines()]
    return [_addresses(fields[0]) for fields in lines if fields[4] != "0"]


def lies_in(known: list[tuple[int, int]], tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in one of these address ranges."""
    return any(start <= tensor.data_ptr() < stop for start, stop in known)


def evict(tensor: torch.Tensor) -> None:
    """Remove a mapped tensor's pages from the process's memory until it is used again.

    Nothing is lost: what was written to a file of its own stays there, and a checkpoint is never written to.
    """
    _advise(tensor, mmap.MADV_DONTNEED)


def prefetch(tensor: torch.Tensor) -> None:
    """Have the system read a mapped tensor in the background."""
    _advise(tensor, mmap.MADV_WILLNEED)


def _advise(tensor: torch.Tensor, advice: int) -> None:
    start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    length = tensor.data_ptr() + tensor.nbytes - start
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


def _addresses(text: str) -> tuple[int, int]:
    start, _, stop = text.partition("-")
    return int(start, 16), int(stop, 16)
