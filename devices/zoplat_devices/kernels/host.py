"""The backend for float32 arrays of numpy."""

import numpy as np

from zoplat.space.backend import Backend
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.native import kernels
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_devices.memory import mapped


def host_backend() -> Backend:
    """Fused where a compiler is at hand, tile by tile elsewhere; both make the same bits."""
    found = kernels()
    return FusedBackend(found, np.empty, mapped) if found else Backend(ReferenceNoise(), np.empty, mapped)
