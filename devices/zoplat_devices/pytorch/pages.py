"""Trainable weights on large pages: a pass over all of them then has fewer TLB misses."""

from __future__ import annotations

import ctypes
import mmap
import os
from itertools import accumulate
from typing import Any

LARGE = 1 << 21
"""Bytes of a large page."""
AT_ONCE = 2 << 20
"""Entries that are copied before their old pages are returned."""
LEAST = 16 * LARGE
"""Bytes of trainable weights below which nothing is moved."""


def onto_large_pages(model: Any) -> None:
    """Move the trainable weights of a model into one region that the system may back with large pages.

    Pages are released as soon as they were copied, so the peak grows by some MiB and not by the model. Where the
    system has no large pages, nothing happens.
    """
    tensors = movable(model)
    ends = list(accumulate(-(-tensor.nbytes // 64) * 64 for tensor in tensors.values()))
    if not ends:
        return
    try:
        region = _region(ends[-1])
    except OSError:
        return
    offsets = dict(zip(tensors, [0, *ends], strict=False))
    del tensors
    users: dict[int, list[Any]] = {}
    for parameter in model.parameters():
        if parameter.data_ptr() in offsets:
            users.setdefault(parameter.data_ptr(), []).append(parameter)
    for address, owners in users.items():
        _move(owners, region[offsets[address] :])


def movable(model: Any) -> dict[int, Any]:
    """Address → tensor, of those that belong on large pages, each aligned to a cache line; none if they are few."""
    tensors = {p.data_ptr(): p.data for p in model.parameters() if p.requires_grad and p.is_contiguous()}
    enough = sum(-(-tensor.nbytes // 64) * 64 for tensor in tensors.values()) >= LEAST
    return tensors if enough and hasattr(mmap, "MADV_HUGEPAGE") else {}


def _region(size: int) -> Any:
    """So many bytes, aligned to a large page."""
    import torch

    held = mmap.mmap(-1, size + LARGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    first = -whole.data_ptr() % LARGE
    return whole[first : first + size]


def _move(owners: list[Any], target: Any) -> None:
    """Copy a tensor to the start of `target` and let all parameters that share it point there."""
    old = owners[0].data
    new = target[: old.nbytes].view(old.dtype).view(old.shape)
    for part, source in zip(new.view(-1).split(AT_ONCE), old.view(-1).split(AT_ONCE), strict=True):
        part.copy_(source)
        _release(source)
    for parameter in owners:
        parameter.data = new


def _release(tensor: Any) -> None:
    """Return the pages that hold nothing but this tensor to the system; other tensors may share its mapping."""
    page = os.sysconf("SC_PAGESIZE")
    begin, end = -(-tensor.data_ptr() // page) * page, (tensor.data_ptr() + tensor.nbytes) // page * page
    if end > begin:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
