"""What a board tells of itself, as psutil reports it, and when a run should wait for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

BETTER = 5.0  # percent or degrees past a limit before a run that waited goes on
PROCESSORS = ("cpu", "soc", "core", "k10temp", "tj")
"""What names of sensors of a processor have in them."""


@dataclass(frozen=True)
class Reading:
    """What was told; None where it was not.

    Attributes:
        battery: charge in percent.
        plugged: whether it is being charged.
        temperature: of the hottest processor, in °C.
    """

    battery: float | None = None
    plugged: bool = True
    temperature: float | None = None

    @classmethod
    def now(cls) -> Reading:
        """Of this board."""
        cells = getattr(psutil, "sensors_battery", lambda: None)()
        return cls.of(cells, getattr(psutil, "sensors_temperatures", dict)())

    @classmethod
    def of(cls, cells: Any, sensors: Mapping[str, Sequence[Any]]) -> Reading:
        """From the answers of `psutil.sensors_battery` and `psutil.sensors_temperatures`."""
        inside = [name for name in sensors if any(part in name.lower() for part in PROCESSORS)]
        told = [one.current for name in inside or sensors for one in sensors[name]]
        warmest = max((degrees for degrees in told if degrees and degrees > 0), default=None)
        if cells is None:
            return cls(temperature=warmest)
        return cls(cells.percent, cells.power_plugged is not False, warmest)

    def __str__(self) -> str:
        degrees = [] if self.temperature is None else [f"{self.temperature:.0f} °C"]
        return "  ".join([*degrees, *([] if self.battery is None else [f"battery {self.battery:.0f} %"])])


@dataclass(frozen=True)
class Limits:
    """Beyond which a run waits.

    Attributes:
        battery: least charge in percent while nothing charges it.
        temperature: highest, in °C.
    """

    battery: float | None = None
    temperature: float | None = None

    def passed(self, told: Reading, is_waiting: bool = False) -> str | None:
        """Why a run should wait, or wait on until it is better by a margin; None where it should not."""
        margin = BETTER if is_waiting else 0.0
        if self.battery is not None and told.battery is not None and not told.plugged:
            least = min(self.battery + margin, 100.0)
            if told.battery < least:
                return f"battery at {told.battery:.0f} %, below {least:.0f} %, and nothing charges it"
        if self.temperature is not None and told.temperature is not None:
            most = self.temperature - margin
            if told.temperature > most:
                return f"processor at {told.temperature:.0f} °C, above {most:.0f} °C"
        return None
