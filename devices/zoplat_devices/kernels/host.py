"""The backend for numpy arrays: what runs without PyTorch moves weights with it."""

from __future__ import annotations

from zoplat.space.backend import Backend
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.native import kernels
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_devices.memory import empty, mapped


def host_backend() -> Backend:
    """Fused where a C compiler is installed, tile by tile elsewhere; both give the same bits."""
    found = kernels()
    return FusedBackend(found, empty, mapped) if found else Backend(ReferenceNoise(), empty, mapped)
