"""Attention on shapes: the memory that fused kernels take, which the meta device does not choose by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

ALIGNED = 16
"""Columns that a mask is padded to a multiple of on CUDA."""


@contextmanager
def fused_attention(kind: str) -> Iterator[None]:
    """A context in which scaled dot-product attention on shapes allocates what a fused kernel does.

    Args:
        kind: of the device that is meant.
    """
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _attention(before, kind == "cuda")
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


def _attention(real: Callable[..., Any], pads: bool) -> Callable[..., Any]:
    """In place of torch's function; where a kernel with derivatives of its own is asked for, that one."""

    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *more: Any, **named: Any) -> Any:
        if not (query.is_meta and torch.backends.cuda.flash_sdp_enabled()):
            return real(query, key, value, attn_mask, *more, **named)
        mask = attn_mask
        if mask is not None:
            if mask.dtype is torch.bool:
                mask = torch.where(mask, *(query.new_zeros(()) for _ in range(2)))
            if pads and (rest := -mask.shape[-1] % ALIGNED):
                mask = functional.pad(mask, (0, rest))
        return _Attention.apply(query, key, value, mask)

    return attention


class _Attention(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    """(rows, heads, tokens, width), laid out with the heads beside each other, and one number a row of scores."""

    @staticmethod
    def forward(context: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        rows, heads, tokens, _ = q.shape
        found = q.new_empty(rows, tokens, heads, v.shape[-1]).transpose(1, 2)
        sums = q.new_empty(rows, heads, tokens, dtype=torch.float32)
        context.save_for_backward(q, k, v, mask, found, sums)
        return found

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        q, k, v, *_ = context.saved_tensors
        return *(torch.empty_like(side) for side in (q, k, v)), None
