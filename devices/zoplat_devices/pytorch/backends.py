"""Backends for PyTorch's arrays, with the best kernels that a device has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoplat.core.blocks import Block
from zoplat.core.noise import Noise, Stream
from zoplat.space.backend import Backend
from zoplat.space.buffers import MakeArray
from zoplat_devices.kernels import gpu, native
from zoplat_devices.kernels.fused import FusedBackend, FusedNoise
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_devices.kernels.tables import Kernels


class TorchNoise(Noise):
    """Numbers made on the host, moved to where the weights are."""

    def __init__(self, inner: Noise, kind: str) -> None:
        self.inner, self.kind = inner, kind

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        return torch.as_tensor(self.inner.numbers(law, stream, first, shape), device=self.kind)


def backend_for(
    blocks: Sequence[Block], kind: str, empty: MakeArray, mapped: MakeArray, release: Callable[[Any], None]
) -> Backend:
    """The backend of a kind of device; moves are fused where there are kernels for it."""
    kernels = kernels_for(kind)
    if kernels and all(block.dtype != "float64" for block in blocks):
        return FusedBackend(kernels, empty, mapped, release)

    def on_host(shape: tuple[int, ...], dtype: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    host = kernels_for("cpu")
    inner = FusedNoise(host, on_host) if host else ReferenceNoise()
    return Backend(TorchNoise(inner, kind), empty, mapped, release)


def kernels_for(kind: str) -> Kernels | None:
    """Those that move weights on a kind of device, if there are any."""
    found: Kernels | None = None
    if kind == "cuda":
        try:
            found = gpu.kernels(kind)
        except gpu.Broken as problem:
            _say(f"{problem} The processor makes the random numbers, the same but slowly")
    elif kind == "cpu":
        found = native.kernels(torch.get_num_threads())
        if found is None:
            _say("no C compiler is at hand (pip install ziglang): numpy makes the random numbers, the same but slowly")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr)
