"""What the driver of NVIDIA's GPUs tells: memory of this process, energy, power and temperature, for each GPU.

The memory of a process is what the driver counts, so it has the CUDA context and kernels in it, which no allocator
knows of. Inside a container the driver may not know the process, and says nothing of it; small cards have no counter of
energy.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from zoplat import Gauge, Probe, Unit, hookimpl


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
        units: dict[str, Unit] = {}
        known: tuple[tuple[str, Unit, Callable[[Any], float]], ...] = (
            ("memory of this process", "B", self._memory),
            ("energy", "J", self._energy),
            ("power", "W", self._power),
            ("temperature", "°C", self._temperature),
        )
        for index in range(library.nvmlDeviceGetCount()):
            gpu = library.nvmlDeviceGetHandleByIndex(index)
            for name, unit, reader in known:
                with suppress(library.NVMLError_NotSupported):  # this GPU does not tell
                    reader(gpu)
                    units[f"gpu{index} {name}"] = unit
                    self._readers[f"gpu{index} {name}"] = partial(reader, gpu)
        self.units = units

    def _energy(self, gpu: Any) -> float:
        """Joules since the driver was loaded."""
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3

    def _power(self, gpu: Any) -> float:
        """Watts."""
        return float(self._library.nvmlDeviceGetPowerUsage(gpu)) / 1e3

    def _temperature(self, gpu: Any) -> float:
        """Degrees Celsius."""
        return float(self._library.nvmlDeviceGetTemperature(gpu, self._library.NVML_TEMPERATURE_GPU))

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

    def joules(self) -> float | None:
        """Of the GPUs that CUDA may use, whoever works on them."""
        readers = [self._readers.get(f"gpu{index} energy") for index in _usable(self._library.nvmlDeviceGetCount())]
        own = [reader() for reader in readers if reader]
        return sum(own) if own else None

    def close(self) -> None:
        self._library.nvmlShutdown()


def _usable(count: int) -> Sequence[int]:
    """The numbers of the GPUs that CUDA may use; all of them where it says so in another way than by numbers."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [int(part) for part in named.split(",")] if named.replace(",", "").isdigit() else range(count)


@hookimpl
def zoplat_probes() -> dict[str, Probe]:
    return {"nvml": Nvml()}
