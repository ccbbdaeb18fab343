"""Plugins of one file in a comparison: every worker and every run has the same, by the digest of the file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zoplat.core.errors import ZoplatError
from zoplat.registry import catalogue


def versions(files: Iterable[Path]) -> dict[str, str]:
    """By the name of each file that `--plugin` has registered, the digest of its content."""
    names = {file.name for file in files}
    return {entry.distribution: entry.version for entry in catalogue() if entry.distribution in names}


def flags(files: Iterable[Path | str]) -> list[str]:
    """What gives these files to another command."""
    return [word for file in files for word in ("--plugin", str(file))]


def shown(files: Iterable[Path | str]) -> str:
    """The same as text, after a blank; nothing where there are none."""
    return "".join(f" {shlex.quote(word)}" for word in flags(files))


def check_named(needed: Mapping[str, str], where: str) -> None:
    """Raise ZoplatError unless the user has named all plugins of a study: a settings file alone never loads code."""
    known = {entry.distribution for entry in catalogue()}
    missing = [name for name in needed if name not in known]
    if missing:
        raise ZoplatError(
            f"{where} is of a study that uses the parts of {', '.join(missing)}; give it too: --plugin {missing[0]}"
        )


def check_unchanged(needed: Mapping[str, str], files: Sequence[Path], where: Path) -> None:
    """Raise ZoplatError where a study was begun with plugins of other content."""
    own = versions(files)
    changed = [name for name, version in needed.items() if own.get(name) != version]
    if changed:
        raise ZoplatError(
            f"{where} was begun with {changed[0]} as it was then ({needed[changed[0]]}), and now it is "
            f"{own.get(changed[0], 'not there')}. Runs of both can't share a table: put the file back, or choose "
            "another --out."
        )
