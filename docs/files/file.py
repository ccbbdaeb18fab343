"""What a file on disk is, and how the fields of a written class become keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from zoplat.config.parts import field_meanings


@dataclass(frozen=True)
class File:
    """A file.

    Attributes:
        name: its place in the folder; `N` and `NAME` vary.
        what: what it is, in a sentence or two.
        keys: dotted key → meaning; none for files that are not made of keys.
        unseen: keys that need a GPU, a library or a sensor, and are in no file of the test.
        variant: which lines of the file, or which files of that name; empty where all are alike.
    """

    name: str
    what: str
    keys: Mapping[str, str] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
    variant: str = ""


def of(kind: type, prefix: str = "", without: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields of a dataclass with their meanings; KeyError for one without."""
    known = field_meanings(kind)
    return {prefix + one.name: known[one.name] for one in dataclasses.fields(kind) if one.name not in without}
