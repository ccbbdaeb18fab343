"""Memory of this process on the host, as the kernel of Linux divides it, and that of its control group.

Anonymous pages are those of arrays and objects. Pages of files are code of libraries and weights that are mapped, which
the kernel can drop and read again. The control group is what a container may take; its peak has the page cache of its
files in it, so it may lie above that of the process. `pss` divides pages that several processes share by their number;
the kernel goes through all pages for it, which takes milliseconds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zoplat import Gauge, Probe, hookimpl

OF_STATUS = {"RssAnon": "anonymous", "RssFile": "files", "RssShmem": "shared memory", "VmRSS": "resident"}
"""Line of /proc/self/status → quantity."""
OF_GROUP = {
    "group limit": ("memory.max", "memory/memory.limit_in_bytes"),
    "group peak": ("memory.peak", "memory/memory.max_usage_in_bytes"),
    "group now": ("memory.current", "memory/memory.usage_in_bytes"),
}
"""Quantity → files of version 2 and version 1 of control groups."""
NO_LIMIT = 1 << 60
"""Limits above this many bytes are none."""


@dataclass(frozen=True)
class Memory(Probe):
    """Pages of this process and its control group.

    Attributes:
        proc: folder of the process.
        groups: where control groups are mounted.
    """

    summary: ClassVar[str] = "bytes of this process: anonymous and of files; limit and peak of its control group"
    proc: str = "/proc/self"
    groups: str = "/sys/fs/cgroup"

    def missing(self) -> str | None:
        return None if (Path(self.proc) / "status").exists() else f"{self.proc}/status is of Linux and not there"

    def open(self) -> "Pages":
        return Pages(Path(self.proc) / "status", files_of_group(Path(self.proc), Path(self.groups)))


class Pages(Gauge):
    """Pages of the process and numbers of its group.

    Args:
        status: file of the process.
        group: file by quantity.
    """

    def __init__(self, status: Path, group: Mapping[str, Path]) -> None:
        self._status, self._group = status, group
        self.units = dict.fromkeys(self.read(), "B")

    def read(self) -> dict[str, float]:
        lines = dict(re.findall(r"^(\w+):\s+(\d+) kB", self._status.read_text(encoding="utf-8"), re.MULTILINE))
        found = {name: 1024.0 * int(lines[line]) for line, name in OF_STATUS.items() if line in lines}
        group = {name: size(path) for name, path in self._group.items()}
        return found | {name: count for name, count in group.items() if count is not None}


@dataclass(frozen=True)
class Pss(Probe):
    """The proportional share of this process.

    Attributes:
        proc: folder of the process.
    """

    summary: ClassVar[str] = "bytes of this process, shared pages divided by who shares them; only where it is named"
    on_request: ClassVar[bool] = True
    proc: str = "/proc/self"

    def missing(self) -> str | None:
        path = Path(self.proc) / "smaps_rollup"
        return None if path.exists() else f"{path} is of Linux 4.14 and not there"

    def open(self) -> "Share":
        return Share(Path(self.proc) / "smaps_rollup")


class Share(Gauge):
    """The sum over all pages of a process.

    Args:
        file: that has it.
    """

    def __init__(self, file: Path) -> None:
        self.units, self._file = {"pss": "B"}, file

    def read(self) -> dict[str, float]:
        found = re.search(r"^Pss:\s+(\d+) kB", self._file.read_text(encoding="utf-8"), re.MULTILINE)
        return {"pss": 1024.0 * int(found[1])} if found else {}


def files_of_group(proc: Path, mount: Path) -> dict[str, Path]:
    """The files of the control group of a process, by quantity, for those that are there: version 2, else 1.

    A process in a container often sees its own group as the top of the mount.
    """
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    groups = {fields[1]: fields[2].lstrip("/") for line in lines if len(fields := line.split(":", 2)) == 3}
    old = next((path for names, path in groups.items() if "memory" in names.split(",")), "")
    found = {}
    for name, (second, first) in OF_GROUP.items():
        folder, file = first.split("/")
        places = [mount / groups.get("", "") / second, mount / second, mount / folder / old / file, mount / first]
        for path in places:
            if path.is_file():
                found[name] = path
                break
    return found


def size(path: Path) -> float | None:
    """Bytes in a file; None where it has none, or a limit that is none."""
    try:
        count = int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return float(count) if count < NO_LIMIT else None


@hookimpl
def zoplat_probes() -> dict[str, Probe]:
    return {"memory": Memory(), "pss": Pss()}
