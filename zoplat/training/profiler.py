"""Time and memory by phase, measured at every change of phase: seconds and the peak of memory.

Phases nest: the seconds and the peak of an inner phase do not count for the outer one. The memory is read through
functions of the session, whatever its runtime.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from zoplat.core.memory import MemoryReading

INFERENCE = ("inference", "baseline")
"""Phases of inference alone, with which the peak of training is compared."""
TRAINING = ("forward", "gradient", "move", "rule")
"""Phases of a step."""


@dataclass
class Phase:
    """Time and memory of one phase.

    Attributes:
        seconds: time spent in it, without inner phases.
        calls: how often it was entered.
        host_peak, device_peak: most bytes in use during it; no device_peak without an accelerator.
        owners: bytes by owner when the stretch with that peak ended.
    """

    seconds: float = 0.0
    calls: int = 0
    host_peak: int = 0
    device_peak: int | None = None
    owners: dict[str, int] = field(default_factory=dict)

    def highest(self, other: Phase) -> dict[str, int]:
        """The owners of the higher peak of two."""
        mine, others = (one.host_peak if one.device_peak is None else one.device_peak for one in (self, other))
        return self.owners if mine > others else other.owners


@dataclass(frozen=True)
class Stretch:
    """Some time without a change of phase.

    Attributes:
        phase: its name.
        began, ended: seconds of `time.perf_counter`.
        reading: memory at its end, and the peaks in it.
    """

    phase: str
    began: float
    ended: float
    reading: MemoryReading


@dataclass
class Profiler:
    """Measures the phases of a run.

    Attributes:
        memory: reads the memory in use and the peak since `reset_peak`.
        reset_peak: begins a new peak.
        ledger: bytes by owner now; asked when the peak of a phase has risen.
        watch: is given every stretch of time when it is over.
        phases: by name: open, inference, move, forward, rule, evaluate, checkpoint, …, and "other" for the rest.
        failed: the innermost phase that an exception ended; "" while there was none.
    """

    memory: Callable[[], MemoryReading]
    reset_peak: Callable[[], None]
    ledger: Callable[[], dict[str, int]] = dict
    watch: Callable[[Stretch], None] | None = None
    phases: dict[str, Phase] = field(default_factory=dict)
    failed: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._stack, self._only = ["other"], ""
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A context manager: time and memory inside it count for the phase `name`."""
        self._switch()
        self._stack.append(self._only or name)
        self.phases.setdefault(self._stack[-1], Phase()).calls += not self._only
        try:
            yield
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            self._switch()
            self._stack.pop()

    @contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """The same, and what is done in phases inside it counts for it too."""
        with self.phase(name):
            before, self._only = self._only, name
            try:
                yield
            finally:
                self._only = before

    def add_past(self, name: str, seconds: float) -> None:
        """Enter a phase that was over before the profiler was made, with the peak up to now."""
        self._stack.append(name)
        self._switch()
        self._stack.pop()
        self.phases[name].seconds, self.phases[name].calls = seconds, 1

    def now(self) -> float:
        """End the stretch that lasts, so that all up to now is entered; the time, as `time.perf_counter` has it."""
        self._switch()
        return self._since

    @staticmethod
    def clock() -> float:
        """The time now, as stretches have it."""
        return time.perf_counter()

    @property
    def peak(self) -> MemoryReading:
        """Highest peak of all phases, up to now."""
        self._switch()
        return self._highest(list(self.phases))

    @property
    def so_far(self) -> MemoryReading:
        """Highest peak of all phases up to the newest change of phase; the memory is not read."""
        return self._highest(list(self.phases))

    def peak_of(self, *names: str) -> MemoryReading:
        """Highest peak of some phases; 0 where none of them was entered."""
        return self._highest([name for name in names if name in self.phases])

    def rows(self) -> list[dict[str, Any]]:
        """One row per phase, as in memory.jsonl."""
        return [{"kind": "phase", "phase": name, **asdict(phase)} for name, phase in self.phases.items()]

    def _highest(self, names: list[str]) -> MemoryReading:
        phases = [self.phases[name] for name in names]
        device = [phase.device_peak for phase in phases if phase.device_peak is not None]
        host = max((phase.host_peak for phase in phases), default=0)
        return MemoryReading(host, host, max(device, default=None), max(device, default=None))

    def _switch(self) -> None:
        """End a stretch of the current phase: add its seconds and its peak, and begin a new peak."""
        now, reading = time.perf_counter(), self.memory()
        phase = self.phases.setdefault(self._stack[-1], Phase())
        phase.seconds += now - self._since
        if _rises(phase, reading):
            phase.owners = self.ledger()
        phase.host_peak = max(phase.host_peak, reading.host_peak)
        if reading.device_peak is not None:
            phase.device_peak = max(phase.device_peak or 0, reading.device_peak)
        if self.watch:
            self.watch(Stretch(self._stack[-1], self._since, now, reading))
        self.reset_peak()
        self._since = time.perf_counter()


def _rises(phase: Phase, reading: MemoryReading) -> bool:
    """Whether a peak is the highest of its phase, in the memory that the model is in."""
    if reading.device_peak is None:
        return reading.host_peak > phase.host_peak
    return phase.device_peak is None or reading.device_peak > phase.device_peak
