"""What the driver of NVIDIA's GPUs tells: memory of this process, energy, power and temperature, for each GPU.

The memory of a process is what the driver counts, so it has the CUDA context and kernels in it, which no allocator knows
of. Inside a container the driver may not know the process, and says nothing of it; small cards have no counter of energy.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from zoplat import Gauge, Probe, hookimpl


@dataclass(frozen=True)
class Nvml(Probe):
    """All GPUs that the driver shows."""

    summary: ClassVar[str] = "of each NVIDIA GPU: memory of this process, joules, watts, degrees Celsius"

    def missing(self) -> str | None:
        try:
            import pynvml
        except ImportError:
            return "its library is not installed. pip install nvidia-ml-py"
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as problem:
            return f"the driver of NVIDIA does not answer: {problem}"
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
        return None if count else "the driver of NVIDIA shows no GPU"

    def open(self) -> "Gpus":
        import pynvml

        pynvml.nvmlInit()
        return Gpus(pynvml, os.getpid())


class Gpus(Gauge):
    """The GPUs of a machine.

    Args:
        library: pynvml, initialised.
        process: whose memory is read.
    """

    def __init__(self, library: Any, process: int) -> None:
        self._library, self._process = library, process
        self._readers: dict[str, Callable[[], float]] = {}
        self.units = {}
        for index in range(library.nvmlDeviceGetCount()):
            gpu = library.nvmlDeviceGetHandleByIndex(index)
            self._add(f"gpu{index} memory of this process", "B", lambda gpu=gpu: self._memory(gpu))
            self._add(f"gpu{index} energy", "J", lambda gpu=gpu: library.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3)
            self._add(f"gpu{index} power", "W", lambda gpu=gpu: library.nvmlDeviceGetPowerUsage(gpu) / 1e3)
            self._add(
                f"gpu{index} temperature",
                "°C",
                lambda gpu=gpu: library.nvmlDeviceGetTemperature(gpu, library.NVML_TEMPERATURE_GPU),
            )

    def _add(self, name: str, unit: Any, reader: Callable[[], float]) -> None:
        """Keep a quantity, where this GPU has it."""
        with suppress(self._library.NVMLError_NotSupported):
            reader()
            self.units[name], self._readers[name] = unit, reader

    def _memory(self, gpu: Any) -> float:
        """Bytes of this process on a GPU; 0 where it is none of its processes."""
        running = self._library.nvmlDeviceGetComputeRunningProcesses(gpu)
        return float(sum(one.usedGpuMemory or 0 for one in running if one.pid == self._process))

    def read(self) -> dict[str, float]:
        found = {}
        for name, reader in self._readers.items():
            with suppress(self._library.NVMLError):
                found[name] = float(reader())
        return found

    def close(self) -> None:
        self._library.nvmlShutdown()


@hookimpl
def zoplat_probes() -> dict[str, Probe]:
    return {"nvml": Nvml()}
