"""Joules, where the machine tells: of processor packages by RAPL, of NVIDIA GPUs by NVML.

Both count what the whole part has used, other work on it included.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError

POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the counters of processors: energy_uj of each package, in microjoules."""
ALL_GPUS = "CUDA_VISIBLE_DEVICES"


class Energy:
    """The counters of this machine, added up from the moment this is made.

    Attributes:
        sources: what tells its energy, in words; empty where nothing does.
    """

    def __init__(self) -> None:
        counters = {**_packages(), **_gpus()}
        self.sources = [*counters]
        self._counters = [*counters.values()]
        self._last = [read() for read, _ in self._counters]
        self._joules = 0.0

    def joules(self) -> float | None:
        """Used since the beginning; None where nothing tells."""
        if not self._counters:
            return None
        now = [read() for read, _ in self._counters]
        for (_, largest), before, after in zip(self._counters, self._last, now, strict=True):
            self._joules += after - before if after >= before else after - before + largest
        self._last = now
        return self._joules


def check_measured() -> None:
    """Raise ZoplatError where a budget of joules can't be kept."""
    if not Energy().sources:
        raise ZoplatError(
            f"max_joules: this machine does not tell its energy: no counter of a processor package can be read in "
            f"{POWERCAP} (often only root may, or it is a virtual machine), and no NVIDIA GPU tells through NVML. Use "
            "--max-passes, --max-tokens or --max-seconds."
        )


Counter = tuple[Callable[[], float], float]
"""A function that gives joules, and the largest value before it begins at 0 again."""


def _packages() -> dict[str, Counter]:
    """Counters of processor packages that can be read; what is inside a package is counted with it."""
    found: dict[str, Counter] = {}
    for folder in sorted(POWERCAP.glob("*-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if folder.name.count(":") == 1 and name.startswith("package"):
                largest = float((folder / "max_energy_range_uj").read_text()) / 1e6
                _of_package(folder / "energy_uj")
                found[f"processor {name}"] = (partial(_of_package, folder / "energy_uj"), largest)
        except (OSError, ValueError):
            continue
    return found


def _of_package(file: Path) -> float:
    return float(file.read_text()) / 1e6


def _gpus() -> dict[str, Counter]:
    """Counters of NVIDIA GPUs, those that CUDA may use; none where NVML is not there or knows no energy."""
    try:
        import pynvml
    except ImportError:
        return {}
    found: dict[str, Counter] = {}
    try:
        pynvml.nvmlInit()
        named = os.environ.get(ALL_GPUS, "")
        numbers = [int(part) for part in named.split(",")] if named.replace(",", "").isdigit() else None
        for number in range(pynvml.nvmlDeviceGetCount()) if numbers is None else numbers:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            _of_gpu(pynvml, handle)
            found[f"GPU {number}"] = (partial(_of_gpu, pynvml, handle), 2.0**64 / 1e3)
    except pynvml.NVMLError:
        return found
    return found


def _of_gpu(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
