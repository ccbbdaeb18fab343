"""Energy of processors by RAPL, as Linux shows it in powercap.

Each zone, such as the package or its memory, has a counter in µJ that begins again at 0 after `max_energy_range_uj`.
Many systems let only root read it: `chmod a+r` on the files `energy_uj` changes that until the next start.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zoplat import Gauge, Probe, hookimpl

COUNTER, RANGE = "energy_uj", "max_energy_range_uj"


@dataclass(frozen=True)
class Energy(Probe):
    """The zones of powercap.

    Attributes:
        root: folder of the zones.
    """

    summary: ClassVar[str] = "joules of the processor by zone, from RAPL"
    root: str = "/sys/class/powercap"

    def missing(self) -> str | None:
        if any(zones(Path(self.root))):
            return None
        if any(Path(self.root).glob(f"*/{COUNTER}")):
            return f"the counters in {self.root} may not be read by this user: chmod a+r {self.root}/*/{COUNTER}"
        return f"{self.root} has no zone with a counter of energy"

    def open(self) -> "Zones":
        return Zones(dict(zones(Path(self.root))))


class Zones(Gauge):
    """Counters that go on where they began again.

    Args:
        folders: of the zones, by name.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.units = dict.fromkeys(folders, "J")
        self._folders = folders
        self._before: dict[str, int] = {}
        self._added = dict.fromkeys(folders, 0)

    def read(self) -> dict[str, float]:
        found = {}
        for name, folder in self._folders.items():
            now = number(folder / COUNTER)
            if now is None:
                continue
            if now < self._before.get(name, 0):
                self._added[name] += number(folder / RANGE) or 0
            self._before[name] = now
            found[name] = (now + self._added[name]) / 1e6
        return found

    def joules(self) -> float | None:
        """Of the packages; what is inside one, and the platform around them, would be counted twice."""
        own = [value for name, value in self.read().items() if name.startswith("package") and "/" not in name]
        return sum(own) if own else None


def zones(root: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of each zone that can be read; those inside another have its name before theirs."""
    folders = sorted(root.glob("*:*"), key=lambda folder: folder.name)
    for folder in folders:
        if number(folder / COUNTER) is not None:
            outer = [text(one) for one in folders if folder.name.startswith(f"{one.name}:")]
            yield "/".join([*outer, text(folder)]), folder


def text(folder: Path) -> str:
    """The name of a zone; the number of the package is in it."""
    try:
        return (folder / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return folder.name


def number(path: Path) -> int | None:
    """The whole number in a file; None where it can't be read."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@hookimpl
def zoplat_probes() -> dict[str, Probe]:
    return {"energy": Energy()}
