"""Finding plugins through entry points, and the catalogue of what they offer."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from zoplat import hookspecs
from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.estimator import Estimator
from zoplat.core.preset import Preset
from zoplat.core.rule import StepRule
from zoplat.core.sampler import Sampler
from zoplat.tasks.task import Task

GROUP = "zoplat"
KINDS = {
    "estimator": "zoplat_estimators",
    "sampler": "zoplat_samplers",
    "step-rule": "zoplat_step_rules",
    "device": "zoplat_devices",
    "task": "zoplat_tasks",
    "preset": "zoplat_presets",
}
BASES = {
    "estimator": Estimator,
    "sampler": Sampler,
    "step-rule": StepRule,
    "device": Device,
    "task": Task,
    "preset": Preset,
}
NO_PLUGINS = "ZOPLAT_NO_PLUGINS"
"""Set in the environment, it switches off every distribution but zoplat's own."""


@dataclass(frozen=True)
class Entry:
    """One registered part.

    Attributes:
        kind, name: what it is and how it is asked for.
        value: the part with its usual settings.
        distribution, version: the package that brought it.
        box: docstring of the plugin: the algorithm box.
        home: folder of the plugin, None where it has none.
    """

    kind: str
    name: str
    value: Any
    distribution: str
    version: str
    box: str = ""
    home: Path | None = None

    @property
    def citations(self) -> list[str]:
        """The entries of `references.bib` beside the plugin whose arXiv ids its box names."""
        path = self.home / "references.bib" if self.home else None
        if path is None or not path.exists():
            return []
        named = re.findall(r"arXiv:([0-9]{4}\.[0-9]{4,5})", self.box)
        entries = re.split(r"\n(?=@)", path.read_text(encoding="utf-8"))
        by_id = {
            m.group(1): entry.strip() for entry in entries if (m := re.search(r"eprint\s*=\s*\{([0-9.]+)\}", entry))
        }
        return [by_id[paper] for paper in dict.fromkeys(named) if paper in by_id]

    @property
    def summary(self) -> str:
        """What the part says of itself, or the first line of its box."""
        own: str | None = getattr(self.value, "summary", None)
        return own or self.box.partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be used, and why; the others are unaffected."""

    entry_point: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        return (
            f"Plugin '{self.entry_point}' ({self.distribution} {self.version}) could not be loaded: "
            f"{self.reason}. Other plugins are unaffected."
        )


@dataclass
class Catalogue:
    """Everything that installed plugins offer."""

    entries: dict[tuple[str, str], list[Entry]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for offers in self.entries.values() for entry in offers)

    @property
    def clashes(self) -> list[str]:
        """One line for each name that two distributions claim."""
        return [_clash(offers) for offers in self.entries.values() if len(offers) > 1]

    def names(self, kind: str) -> list[str]:
        """Registered names of a kind, sorted."""
        return sorted(name for which, name in self.entries if which == kind)

    def entry(self, kind: str, name: str) -> Entry:
        """The part registered under a name.

        Raises:
            ZoplatError: nobody registered it, or two distributions did.
        """
        offers = self.entries.get((kind, name))
        if not offers:
            known = self.names(kind)
            failed = f" {len(self.failures)} failed to load: `zoplat doctor`." if self.failures else ""
            hint = f"`zoplat list {kind}s` shows all {len(known)}.{failed}"
            raise unknown(kind, name, known, hint)
        if len(offers) > 1:
            raise ZoplatError(_clash(offers))
        return offers[0]

    def name_of(self, kind: str, value: Any) -> str:
        """The name under which a part of this type is registered: that of the value with most fields in common."""
        offers = [entry for entry in self if entry.kind == kind and type(entry.value) is type(value)]
        if not offers:
            raise ZoplatError(
                f"{type(value).__name__} is not registered as a {kind}; a hook zoplat_{kind.replace('-', '_')}s "
                "of its plugin must return it."
            )
        return max(offers, key=lambda entry: _in_common(entry.value, value)).name

    def add(self, plugin: Any, distribution: str, version: str) -> None:
        """Ask one plugin for all it offers."""
        manager = pluggy.PluginManager("zoplat")
        manager.add_hookspecs(hookspecs)
        manager.register(plugin)
        manager.check_pending()
        box = inspect.getdoc(plugin) or ""
        file = getattr(plugin, "__file__", None)
        home = Path(file).parent if file else None
        entries = [
            Entry(kind, name, value, distribution, version, box, home)
            for kind, hook in KINDS.items()
            for offer in getattr(manager.hook, hook)()
            for name, value in offer.items()
        ]
        for entry in entries:
            base = BASES[entry.kind]
            if not isinstance(entry.value, base):
                raise TypeError(f"the {entry.kind} '{entry.name}' is no instance of {base.__name__}")
        for entry in entries:
            self.entries.setdefault((entry.kind, entry.name), []).append(entry)


def _in_common(one: Any, other: Any) -> int:
    """Fields in which two parts of one type are equal."""
    return sum(getattr(one, field.name) == getattr(other, field.name) for field in dataclasses.fields(one))


def _clash(offers: list[Entry]) -> str:
    who = " and ".join(f"{entry.distribution} {entry.version}" for entry in offers)
    first = offers[0]
    return (
        f"Two distributions register the {first.kind} '{first.name}': {who}. "
        f"Uninstall one, or set {NO_PLUGINS}=1 to use zoplat's own alone."
    )


@cache
def catalogue() -> Catalogue:
    """The installed plugins. One that fails to import is a line in `failures`, not a dead program."""
    found = Catalogue()
    seen = set()
    points = metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda point: (_source(point)[0] != "zoplat", point.name)):
        distribution, version = _source(point)
        if (distribution, point.name, point.value) in seen:
            continue
        seen.add((distribution, point.name, point.value))
        if os.environ.get(NO_PLUGINS) and distribution != "zoplat":
            continue
        try:
            found.add(point.load(), distribution, version)
        except (Exception, SystemExit) as problem:
            reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
            found.failures.append(Failure(point.name, distribution, version, reason))
    return found


def _source(point: metadata.EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
