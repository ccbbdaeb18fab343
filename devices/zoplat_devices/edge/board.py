"""Battery and temperature of a board, as psutil reports them, and limits beyond which a run pauses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

MARGIN = 5.0  # hysteresis: percent or degrees within a limit before a paused run continues
PROCESSORS = ("cpu", "soc", "core", "k10temp", "tj")
"""Parts of the names of processor sensors."""


@dataclass(frozen=True)
class Reading:
    """A reading of the sensors; None where there is no sensor.

    Attributes:
        battery: charge in percent.
        plugged: whether it is on mains power.
        temperature: of the hottest processor, in °C.
    """

    battery: float | None = None
    plugged: bool = True
    temperature: float | None = None

    @classmethod
    def now(cls) -> Reading:
        """A reading of this board."""
        cells = getattr(psutil, "sensors_battery", lambda: None)()
        return cls.of(cells, getattr(psutil, "sensors_temperatures", dict)())

    @classmethod
    def of(cls, cells: Any, sensors: Mapping[str, Sequence[Any]]) -> Reading:
        """A reading from what `psutil.sensors_battery` and `psutil.sensors_temperatures` return."""
        processors = [name for name in sensors if any(part in name.lower() for part in PROCESSORS)]
        temperatures = [sensor.current for name in processors or sensors for sensor in sensors[name]]
        hottest = max((degrees for degrees in temperatures if degrees and degrees > 0), default=None)
        if cells is None:
            return cls(temperature=hottest)
        return cls(cells.percent, cells.power_plugged is not False, hottest)

    def __str__(self) -> str:
        degrees = [] if self.temperature is None else [f"{self.temperature:.0f} °C"]
        return "  ".join([*degrees, *([] if self.battery is None else [f"battery {self.battery:.0f} %"])])


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a run pauses; None for no limit.

    Attributes:
        battery: lowest charge in percent, while on battery power.
        temperature: highest temperature in °C.
    """

    battery: float | None = None
    temperature: float | None = None

    def exceeded(self, reading: Reading, is_paused: bool = False) -> str | None:
        """The limit that a reading exceeds, in words, or None; a paused run has to be within it by `MARGIN`."""
        margin = MARGIN if is_paused else 0.0
        if self.battery is not None and reading.battery is not None and not reading.plugged:
            lowest = min(self.battery + margin, 100.0)
            if reading.battery < lowest:
                return f"battery at {reading.battery:.0f} %, below {lowest:.0f} %, and nothing charges it"
        if self.temperature is not None and reading.temperature is not None:
            highest = self.temperature - margin
            if reading.temperature > highest:
                return f"processor at {reading.temperature:.0f} °C, above {highest:.0f} °C"
        return None
