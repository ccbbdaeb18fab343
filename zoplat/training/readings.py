"""What the machine tells while a run goes on: its probes, read now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.probe import TOTAL, Gauge, Probe, Unit
from zoplat.guard import Guard
from zoplat.registry import catalogue

EVERY = 1.0
"""Seconds between readings in a run, at least; each takes some 0.1 ms."""
TELL_ENERGY = ("energy", "nvml")
"""zoplat's own probes that may tell energy."""


@dataclass(frozen=True)
class Reading:
    """One quantity over a run.

    Attributes:
        probe, quantity, unit: which.
        total: for units that only grow, by how much it grew over all processes of the run; else None.
        mean, most: over the readings; None for units that only grow.
        last: the newest reading.
        readings: how many.
    """

    probe: str
    quantity: str
    unit: Unit
    total: float | None
    mean: float | None
    most: float | None
    last: float
    readings: int

    @property
    def row(self) -> dict[str, Any]:
        """As in memory.jsonl."""
        return {"kind": "probe", **asdict(self)}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Reading:
        """From a row of memory.jsonl."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def after(self, before: Reading) -> Reading:
        """The same quantity with what an earlier process of the run has read."""
        count = before.readings + self.readings
        if self.unit == TOTAL:
            return replace(self, total=(before.total or 0) + (self.total or 0), readings=count)
        mean = ((before.mean or 0) * before.readings + (self.mean or 0) * self.readings) / count
        return replace(self, mean=mean, most=max(before.most or 0, self.most or 0), readings=count)


class Readings:
    """The probes of a run, open.

    Args:
        names: probes that are to be read beside those that are not on request.
        warn: is called with a sentence on a probe that fails; it is not read again.
        every: seconds between readings.

    Attributes:
        missing: name of a probe → why nothing can be read here.

    Raises:
        ZoplatError: a named probe is not registered, or has nothing to read here.
    """

    def __init__(
        self, names: Sequence[str] = (), warn: Callable[[str], None] = lambda text: None, every: float = EVERY
    ) -> None:
        known, self._warn, self._every = catalogue(), warn, every
        self.missing: dict[str, str] = {}
        self._open: dict[str, Gauge] = {}
        self._values: dict[tuple[str, str], list[float]] = {}
        self._units: dict[tuple[str, str], Unit] = {}
        self._next = 0.0
        wanted = {name: known.entry("probe", name).value for name in names}
        for name in known.names("probe"):
            if name in wanted or not known.entry("probe", name).value.on_request:
                self._try(name, known.entry("probe", name).value)
        for name in wanted:
            if name in self.missing:
                raise ZoplatError(f"--probe {name}: {self.missing[name]}.")
        self.take()

    def _try(self, name: str, probe: Probe) -> None:
        """Open a probe, or keep why it can't be."""
        with Guard() as guard:
            if reason := probe.missing():
                self.missing[name] = reason
            else:
                self._open[name] = probe.open()
        if guard.problem:
            self.missing[name] = f"it fails: {guard.problem}"

    def take(self, now: bool = True) -> None:
        """Read all probes.

        Args:
            now: at once; if not, only where the last time is long enough ago.
        """
        if not now and time.monotonic() < self._next:
            return
        for name, gauge in [*self._open.items()]:
            try:
                found = gauge.read()
                for quantity, value in found.items():
                    self._keep(name, quantity, gauge.units[quantity], float(value))
            except Exception as problem:  # a plugin's own, whatever it raises, ends no run
                self._drop(name, problem)
        self._next = time.monotonic() + self._every

    @property
    def energy_sources(self) -> list[str]:
        """Names of the probes that tell energy."""
        return [name for name in [*self._open] if self._joules(name) is not None]

    def joules(self) -> float | None:
        """Energy since some moment, by all probes that tell it; None where none does."""
        found = [joules for name in [*self._open] if (joules := self._joules(name)) is not None]
        return sum(found) if found else None

    def _joules(self, name: str) -> float | None:
        try:
            return self._open[name].joules()
        except Exception as problem:  # as in `take`
            self._drop(name, problem)
            return None

    def _drop(self, name: str, problem: Exception) -> None:
        del self._open[name]
        self._warn(f"the probe '{name}' fails and is not read again: {type(problem).__name__}: {problem}")

    def _keep(self, name: str, quantity: str, unit: Unit, value: float) -> None:
        """Enter a value: first, last, sum, most and count are all that is kept."""
        first, _, total, most, count = self._values.get((name, quantity), [value, value, 0.0, value, 0])
        self._values[name, quantity] = [first, value, total + value, max(most, value), count + 1]
        self._units[name, quantity] = unit

    @property
    def rows(self) -> list[Reading]:
        """What was read so far."""
        found = []
        for (name, quantity), (first, last, total, most, count) in self._values.items():
            unit = self._units[name, quantity]
            grows = unit == TOTAL
            grown, mean, highest = (last - first, None, None) if grows else (None, total / count, most)
            found.append(Reading(name, quantity, unit, grown, mean, highest, last, int(count)))
        return found

    def close(self) -> None:
        """Close the probes; what was read stays."""
        for gauge in self._open.values():
            with Guard():
                gauge.close()
        self._open = {}


def check_energy() -> None:
    """Raise ZoplatError where a budget of joules can't be kept."""
    readings = Readings()
    sources = readings.energy_sources
    readings.close()
    if not sources:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in readings.missing.items() if name in TELL_ENERGY)
        raise ZoplatError(
            f"max_joules: this machine does not tell its energy ({reasons}). Use --max-passes, --max-tokens or "
            "--max-seconds."
        )


def merged(before: Iterable[dict[str, Any]], now: Sequence[Reading]) -> list[Reading]:
    """What was read, with the rows of earlier processes of the run; one that can't be understood is left out."""
    earlier = {}
    for row in before:
        try:
            reading = Reading.of(row)
            earlier[reading.probe, reading.quantity] = reading
        except (KeyError, TypeError):
            continue
    found = []
    for reading in now:
        old = earlier.pop((reading.probe, reading.quantity), None)
        found.append(reading.after(old) if old else reading)
    return [*found, *earlier.values()]
