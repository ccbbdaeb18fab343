"""What the numbers of a run depend on: runs that differ in it, the seed aside, never share a mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoplat.training.binding import PLACES
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary

RESOLVED = ("dtype", "restore", "rounding", "strategy", "metric")
"""Keys of a journal's header that say what settings such as "auto" came to."""
DIGITS = 12
"""Of a digest, enough to distinguish it from others."""
MOST = 3
"""Differences that a label names."""


@dataclass(frozen=True)
class FinishedRun:
    """A run of a comparison.

    Attributes:
        summary: of the run.
        terms: what its numbers depend on, by name; see `terms_of`.
        method: its name in the table; that of the estimator when empty.
    """

    summary: Summary
    terms: Mapping[str, str] = field(default_factory=dict)
    method: str = ""

    @classmethod
    def of(cls, summary: Summary, directory: RunDirectory, method: str = "") -> FinishedRun:
        """A run with the terms on record in its directory."""
        return cls(summary, terms_of(directory), method)


def terms_of(directory: RunDirectory) -> dict[str, str]:
    """Settings by path without the seed, model and rows by digest, and versions, as text.

    Rows that are drawn by the seed, some of each class, count by their number. A model that was evaluated without
    training has its settings alone.
    """
    journal = directory.read_journal()
    header: dict[str, Any] = journal.header if journal else {}
    settings = header.get("settings") or directory.read_settings()
    rows = header.get("rows") or {}
    apart = ("seed", "forgetting", *(PLACES if rows else ()))
    terms = {path: value for path, value in _flat(settings) if path not in apart}
    terms |= {name: str(header[name]) for name in RESOLVED if header.get(name) is not None}
    if rows:
        terms["model"] = str(header.get("model_digest") or header.get("model"))[:DIGITS]
        drawn = settings.get("per_class") is not None
        for split, text in rows.items():
            count, _, digest = text.partition(", sha256:")
            terms[split] = count if drawn else f"{count} {digest[:DIGITS]}"
    versions = {"zoplat": (header.get("versions") or {}).get("zoplat"), **(header.get("plugins") or {})}
    return terms | {f"version of {name}": str(version) for name, version in versions.items() if version}


def labels(name: str, groups: Sequence[Mapping[str, str]]) -> list[str]:
    """What to call runs of one method whose terms differ: the method, and the first terms in which they do."""
    names = dict.fromkeys(key for terms in groups for key in terms)
    apart = [key for key in names if len({terms.get(key) for terms in groups}) > 1]
    more = f" and {len(apart) - MOST} more" if len(apart) > MOST else ""
    made = []
    for terms in groups:
        own = [f"{key.removeprefix('estimator.')} {terms.get(key, '–')}" for key in apart[:MOST]]
        made.append(f"{name} ({', '.join(own)}{more})" if own else name)
    return made


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and values of nested tables, as text."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", str(value)
