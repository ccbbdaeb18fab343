"""Backends that move PyTorch's arrays, with the best kernels that a device has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from zoplat.core.blocks import Block
from zoplat.core.codes import PACKED
from zoplat.core.noise import Noise, Stream
from zoplat.space.backend import Backend
from zoplat_devices.kernels import gpu, native
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import FusedNoise, ReferenceNoise
from zoplat_devices.kernels.tables import Kernels
from zoplat_devices.pytorch.mapped import evict, mapped
from zoplat_devices.pytorch.quiet import notice


class TorchNoise(Noise):
    """Random numbers made on the host and copied to the device of the weights."""

    def __init__(self, inner: Noise, kind: str) -> None:
        self.inner, self.kind = inner, kind

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        return torch.as_tensor(self.inner.numbers(law, stream, first, shape), device=self.kind)


def backend_for(blocks: Sequence[Block], kind: str) -> Backend:
    """The backend of a kind of device, or of one card such as "cuda:1".

    Fused where there are kernels for it, else the reference one.
    """
    empty, outside = partial(_empty, kind), _outside(kind)
    kernels = kernels_for(kind)
    if kernels and all(_is_moved_by(kernels, block) for block in blocks):
        return FusedBackend(kernels, empty, *outside)
    if kernels:
        return Backend(FusedNoise(kernels, empty), empty, *outside)
    host = kernels_for("cpu")
    inner = FusedNoise(host, _empty_on_host) if host else ReferenceNoise()
    return Backend(TorchNoise(inner, kind), empty, *outside)


def _is_moved_by(kernels: Kernels, block: Block) -> bool:
    """Whether fused kernels can move a block."""
    return kernels.moves_codes if block.dtype == PACKED else block.dtype != "float64"


def _outside(kind: str) -> tuple[Any, ...]:
    """`mapped`, `release` and, on an accelerator, `near` of a backend: for arrays not beside the weights."""
    if kind == "cpu":
        return _mapped, evict
    return _pinned if _is_cuda(kind) else _mapped, _keep, partial(_near, kind)


def kernels_for(kind: str) -> Kernels | None:
    """The kernels that move weights on a kind of device; None where there are none."""
    found: Kernels | None = None
    if _is_cuda(kind):
        try:
            found = gpu.kernels(kind)
        except gpu.Broken as problem:
            notice(f"{problem} The processor makes the random numbers, the same but slowly")
    elif kind == "cpu":
        found = native.kernels(torch.get_num_threads())
        if found is None:
            notice(
                "no C compiler was found (pip install 'zoplat[kernels]'): numpy makes the random numbers, the same but "
                "slowly"
            )
    return found


def _is_cuda(kind: str) -> bool:
    return torch.device(kind).type == "cuda"


def _empty(kind: str, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """A new tensor on the device; no inference tensor, so it may be changed in place at any time."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=getattr(torch, dtype), device=torch.device(kind))


def _empty_on_host(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype))


def _mapped(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """A tensor of the host in a file without a name."""
    return mapped(shape, getattr(torch, dtype))


def _pinned(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """A tensor of the host in pages that stay where they are, which CUDA's kernels read and write by its address."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True)


def _near(kind: str, array: torch.Tensor) -> torch.Tensor:
    """The same numbers on an accelerator."""
    return array.to(kind)


def _keep(array: torch.Tensor) -> None:
    """In place of `evict` on an accelerator, whose arrays are in no file."""
