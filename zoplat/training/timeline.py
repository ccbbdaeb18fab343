"""Memory over time: every change of phase with the peak until then, and samples in between, for a few steps."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from zoplat.training.profiler import Profiler, Stretch

EVERY = 0.05
"""Seconds between samples."""
MOST = 4000
"""Samples that are kept, at most; where more come, every second one is dropped, and they come half as often."""


class Timeline:
    """A context in which a profiler's stretches are kept, and the memory is sampled by a thread.

    The peaks come from the kernel or the allocator and miss nothing; the samples show how memory got there.

    Args:
        profiler: whose phases are kept.
        every: seconds between samples.
    """

    def __init__(self, profiler: Profiler, every: float = EVERY) -> None:
        self._profiler, self._every = profiler, every
        self._stretches: list[Stretch] = []
        self._samples: list[tuple[float, int, int | None]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="zoplat-timeline")

    def __enter__(self) -> Timeline:
        self._began = self._profiler.now()
        self._profiler.watch = self._stretches.append
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()
        self._profiler.now()
        self._profiler.watch = None

    def _sample(self) -> None:
        while not self._ends.wait(self._every):
            if len(self._samples) >= MOST:
                self._samples, self._every = self._samples[::2], 2 * self._every
            reading = self._profiler.memory()
            self._samples.append((self._profiler.clock(), reading.host, reading.device))

    def rows(self) -> list[dict[str, Any]]:
        """One row a stretch or sample, in the order of time, in seconds since the first step and bytes.

        A row of kind "stretch" has began, ended, phase, and the peaks in it; one of kind "sample" has began = ended.
        """
        rows = [
            {
                "kind": "stretch",
                "phase": stretch.phase,
                "began": stretch.began - self._began,
                "ended": stretch.ended - self._began,
                "host": stretch.reading.host_peak,
                "device": stretch.reading.device_peak,
            }
            for stretch in self._stretches
        ]
        rows += [
            {"kind": "sample", "phase": "", "began": at, "ended": at, "host": host, "device": device}
            for at, host, device in ((at - self._began, host, device) for at, host, device in self._samples)
        ]
        return sorted(rows, key=lambda row: row["began"])
