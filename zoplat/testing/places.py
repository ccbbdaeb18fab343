"""Where in a plugin an error arose: the file and the line that its author can change."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

OWN = Path(__file__).parents[1]


def place_of(problem: BaseException) -> tuple[str, int] | None:
    """The last file and line of a traceback that are neither zoplat's nor Python's nor of an installed framework.

    Where there is none such, the last that is not zoplat's; None where all are.
    """
    if isinstance(problem, SyntaxError) and problem.filename and problem.lineno:
        return problem.filename, problem.lineno
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if not _is_within(frame.filename, OWN)]
    mine = [frame for frame in frames if not _is_of_python(frame.filename)]
    last = next(iter([*mine[-1:], *frames[-1:]]), None)
    return (last.filename, last.lineno or 0) if last else None


def in_brackets(problem: BaseException) -> str:
    """The place of an error at the end of a message: "  (my.py, line 3)"; empty where it has none."""
    place = place_of(problem)
    return f"  ({Path(place[0]).name}, line {place[1]})" if place else ""


def _is_of_python(file: str) -> bool:
    """Whether a file is of the standard library, frozen into it, or of numpy or torch."""
    if file.startswith("<"):
        return True
    packages = Path(sysconfig.get_path("purelib"))
    if any(_is_within(file, packages / framework) for framework in ("numpy", "torch", "pluggy")):
        return True
    return _is_within(file, Path(sysconfig.get_path("stdlib"))) and not _is_within(file, packages)


def _is_within(file: str, folder: Path) -> bool:
    return Path(file).is_relative_to(folder)
