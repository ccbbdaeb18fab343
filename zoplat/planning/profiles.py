"""Device profiles: the memory, bandwidth and compute of machines that need not be here, as files of data."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.fields import Checked, number

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1 << 10 * power for power, letter in enumerate("KMGT", 1)
}

LEAST = 1 << 20
"""A number of bytes below which a unit was forgotten."""
MOST = 2.0**60
"""A number of bytes that no machine has."""


def byte_count(text: str, setting: str) -> int:
    """Bytes from a number with a unit.

    >>> byte_count("1.5GiB", "--memory"), byte_count("8GB", "--memory")
    (1610612736, 8000000000)

    Raises:
        ZoplatError: it is no such number.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)?\s*", text)
    if not found or not 0 < float(found.group(1)) < MOST:
        raise ZoplatError(f"{setting} takes a number of bytes such as 8GiB, 900MiB or 24GB, got {text!r}.")
    if not found.group(2) and float(found.group(1)) < LEAST:
        raise ZoplatError(f"{setting} {text} is so many bytes, too few for anything. Give a unit: {text.strip()}GiB.")
    return math.floor(float(found.group(1)) * UNITS[found.group(2) or ""])


def limit_of(text: str) -> int:
    """Bytes of a limit: a number with a unit, or what a machine that a profile describes leaves to a run.

    >>> limit_of("6GiB"), limit_of("rtx-3060")
    (6442450944, 11489246413)

    Raises:
        ZoplatError: it is neither.
    """
    return find(text).usable if text in names() or text.endswith(".toml") else byte_count(text, "--memory")


@dataclass(frozen=True)
class Profile(Checked):
    """A machine.

    Attributes:
        title: what people call it.
        device: which device of zoplat it is: "cpu", "cuda" or "mps".
        memory: of the accelerator, or of the host where it has none, such as "8GiB".
        system: of it, what the operating system and the driver take.
        unified: whether the accelerator uses the memory of the host.
        capability: major compute capability of a CUDA device; 0 where it is not known.
        bandwidth: of that memory, 10⁹ bytes a second.
        float32, bfloat16: multiplications and additions a second in products of matrices, 10¹²; 0 where not known.
    """

    title: str
    device: Literal["cpu", "cuda", "mps"]
    memory: str
    system: str = "0.3GiB"
    unified: bool = False
    capability: int = 0
    bandwidth: float = number(0.0, at_least=0)
    float32: float = number(0.0, at_least=0)
    bfloat16: float = number(0.0, at_least=0)
    source: str = field(default="", metadata={"setting": False})

    @property
    def usable(self) -> int:
        """Bytes that a run may take."""
        return byte_count(self.memory, "memory") - byte_count(self.system, "system")


def names() -> list[str]:
    """The profiles that ship."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def find(name: str) -> Profile:
    """The profile with a name, or in a TOML file.

    Raises:
        ZoplatError: there is none, or the file is not a profile.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ZoplatError(f"--profile {name}: no such file. Without .toml it is one of {', '.join(names())}.")
        return _read(path.read_bytes(), name)
    if name not in names():
        raise unknown("profile", name, names())
    return _read((_folder() / f"{name}.toml").read_bytes(), name)


def _read(content: bytes, where: str) -> Profile:
    try:
        table: dict[str, Any] = tomllib.loads(content.decode())
        found = Profile(**table, source=where)
        if found.usable <= 0:
            raise ZoplatError("its system takes all of its memory")
        return found
    except (ValueError, TypeError, RecursionError, ZoplatError) as problem:
        raise ZoplatError(
            f"--profile {where}: {problem}. A profile has title, device, memory, and may have system, unified, "
            "capability, bandwidth, float32 and bfloat16."
        ) from None


def _folder() -> Any:
    return resources.files("zoplat.planning") / "profiles"
