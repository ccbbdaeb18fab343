"""Temperatures of the zones that Linux watches, such as the processor and, on boards, the GPU and the memory.

A board that becomes too hot lowers its clock, and steps take longer for no other reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zoplat import Gauge, Probe, hookimpl


@dataclass(frozen=True)
class Temperature(Probe):
    """The thermal zones.

    Attributes:
        root: folder of the zones.
    """

    summary: ClassVar[str] = "degrees Celsius of the thermal zones"
    root: str = "/sys/class/thermal"

    def missing(self) -> str | None:
        return None if any(zones(Path(self.root))) else f"{self.root} has no zone with a temperature"

    def open(self) -> "Zones":
        return Zones(dict(zones(Path(self.root))))


class Zones(Gauge):
    """Files with thousandths of a degree.

    Args:
        files: by the name of the zone.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.units = dict.fromkeys(files, "°C")
        self._files = files

    def read(self) -> dict[str, float]:
        readings = {name: degrees(path) for name, path in self._files.items()}
        return {name: found for name, found in readings.items() if found is not None}


def zones(root: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of each zone that can be read; a name that several have gets their numbers."""
    found = [(kind(folder), folder) for folder in sorted(root.glob("thermal_zone*"))]
    names = [name for name, _ in found]
    for name, folder in found:
        if degrees(folder / "temp") is not None:
            which = folder.name.removeprefix("thermal_zone")
            yield (f"{name}-{which}" if names.count(name) > 1 else name), folder / "temp"


def kind(folder: Path) -> str:
    """What a zone calls itself."""
    try:
        return (folder / "type").read_text(encoding="utf-8").strip() or folder.name
    except OSError:
        return folder.name


def degrees(path: Path) -> float | None:
    """Degrees Celsius in a file; None where it has none just now."""
    try:
        return int(path.read_text(encoding="utf-8")) / 1000
    except (OSError, ValueError):
        return None


@hookimpl
def zoplat_probes() -> dict[str, Probe]:
    return {"temperature": Temperature()}
