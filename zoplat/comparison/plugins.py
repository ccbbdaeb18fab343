"""Plugins of one file in a comparison: every worker and every run has the same, by the digest of the file."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
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


def of_terms(terms: Iterable[str]) -> list[str]:
    """Names of the files among the versions that the terms of a run have; see `terms.terms_of`."""
    named = [term.removeprefix("version of ") for term in terms if term.startswith("version of ")]
    return [name for name in named if name.endswith(".py")]


def check_named(needed: Mapping[str, str], where: str) -> None:
    """Raise ZoplatError unless the user has named all plugins of a study: a settings file alone never loads code."""
    _check_given(needed, {entry.distribution for entry in catalogue()}, where)


def check_unchanged(needed: Mapping[str, str], files: Sequence[Path], where: Path) -> None:
    """Raise ZoplatError where a study was begun with plugins of other content."""
    own = versions(files)
    _check_given(needed, own, str(where))
    changed = [name for name, version in needed.items() if own[name] != version]
    if changed:
        raise ZoplatError(
            f"{where} was begun with {changed[0]} as it was then ({needed[changed[0]]}), and now it is "
            f"{own[changed[0]]}. Runs of both can't share a table: put the file back, or choose another --out."
        )


def _check_given(needed: Iterable[str], known: Collection[str], where: str) -> None:
    """Raise ZoplatError where a plugin of a study is none of those that are known here."""
    if missing := [name for name in needed if name not in known]:
        raise ZoplatError(
            f"{where} is of a study that uses the parts of {', '.join(missing)}; give it too:{shown(missing)}"
        )
