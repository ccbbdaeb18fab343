"""Finding plugins through entry points, and the catalogue of what they offer."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
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
from zoplat.core.probe import Probe
from zoplat.core.rule import StepRule
from zoplat.core.sampler import Sampler
from zoplat.core.tracker import Tracker
from zoplat.guard import Guard
from zoplat.tasks.task import Task

GROUP = "zoplat"
KINDS: dict[str, type] = {
    "estimator": Estimator,
    "sampler": Sampler,
    "step-rule": StepRule,
    "device": Device,
    "task": Task,
    "preset": Preset,
    "tracker": Tracker,
    "probe": Probe,
}
"""Kinds of registered parts, and the class of each."""
NO_PLUGINS = "ZOPLAT_NO_PLUGINS"
"""An environment variable: where it is set, only the parts of zoplat's own distribution are registered."""
LOCAL = "local."
"""What the names of parts begin with that were given as values of classes that no plugin registers."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/-]*")
"""What the name of a part looks like."""


def hook_of(kind: str) -> str:
    """The hook that registers parts of a kind.

    >>> hook_of("step-rule")
    'zoplat_step_rules'
    """
    return f"zoplat_{kind.replace('-', '_')}s"


@dataclass(frozen=True)
class Entry:
    """One registered part.

    Attributes:
        kind, name: a key of `KINDS`, and the name that users say.
        value: the part with its default settings.
        distribution, version: the installed package that registers it.
        box: docstring of the plugin's module: the algorithm box.
        home: folder of that module; None for one without a file.
        variant: where the plugin registers the same part under several names, how this one differs from the first.
    """

    kind: str
    name: str
    value: Any
    distribution: str
    version: str
    box: str = ""
    home: Path | None = None
    variant: str = ""

    @property
    def citations(self) -> list[str]:
        """BibTeX of the publications whose arXiv ids are in the box, from `references.bib` in the plugin's folder."""
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
        """One line about the part: its own `summary`, or the first line of its box and what sets it apart there."""
        own: str | None = getattr(self.value, "summary", None)
        line = self.box.partition("\n")[0].rstrip(".")
        return own or (f"{line}; {self.variant}" if self.variant else line)


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded.

    Attributes:
        entry_point: its name.
        distribution, version: the installed package that has it.
        reason: the exception, in one line.
    """

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
    """All parts that the installed plugins register.

    Attributes:
        entries: (kind, name) → the parts registered under that name; more than one is a clash.
        failures: plugins that could not be loaded.
        remarks: one line for each plugin that printed while it was loaded.
    """

    entries: dict[tuple[str, str], list[Entry]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entries in self.entries.values() for entry in entries)

    @property
    def clashes(self) -> list[str]:
        """One line for each name that more than one distribution registers."""
        return [_clash(entries) for entries in self.entries.values() if len(entries) > 1]

    def names(self, kind: str) -> list[str]:
        """Registered names of a kind, sorted."""
        return sorted(name for which, name in self.entries if which == kind)

    def entry(self, kind: str, name: str) -> Entry:
        """The part registered under a name.

        Raises:
            ZoplatError: the name is not registered, or two distributions register it.
        """
        found = self.entries.get((kind, name))
        if not found and name.startswith(LOCAL):
            raise ZoplatError(
                f"The {kind} {name.removeprefix(LOCAL)} was a class in a notebook or a script, given as a value, and "
                "is not known in this process. Run what defines it and give a value of it again, in "
                "zoplat.run(…, out=…, resume=True)."
            )
        if not found:
            known = self.names(kind)
            failed = f" {len(self.failures)} failed to load: `zoplat doctor`." if self.failures else ""
            hint = f"`zoplat list {kind}s` shows all {len(known)}.{failed}"
            raise unknown(kind, name, known, hint)
        if len(found) > 1:
            raise ZoplatError(_clash(found))
        return found[0]

    def name_of(self, kind: str, value: Any) -> str:
        """The registered name of a part: of those of the same type, the one with most fields in common.

        Raises:
            ZoplatError: no part of its type is registered.
        """
        entries = [entry for entry in self if entry.kind == kind and type(entry.value) is type(value)]
        if not entries:
            raise ZoplatError(
                f"{type(value).__name__} is not registered as a {kind}; a hook {hook_of(kind)} "
                "of its plugin must return it."
            )
        return max(entries, key=lambda entry: _in_common(entry.value, value)).name

    def add(self, plugin: Any, distribution: str, version: str) -> None:
        """Register all parts of one plugin.

        Raises:
            TypeError: a hook returned something that is not a part of its kind, or a name that is none.
        """
        manager = pluggy.PluginManager("zoplat")
        manager.add_hookspecs(hookspecs)
        manager.register(plugin)
        _check_version(plugin)
        _check_hooks(manager, plugin)
        box = inspect.getdoc(plugin) or ""
        file = getattr(plugin, "__file__", None)
        home = Path(file).parent if file else None
        entries = [
            Entry(kind, name, value, distribution, version, box, home, _variant(name, value, parts))
            for kind in KINDS
            for parts in getattr(manager.hook, hook_of(kind))()
            for name, value in _by_name(kind, parts).items()
        ]
        for entry in entries:
            base = KINDS[entry.kind]
            if not NAME.fullmatch(entry.name):
                raise TypeError(f"the {entry.kind} {entry.name!r} has no name of letters, digits and - _ . + /")
            if not isinstance(entry.value, base):
                raise TypeError(f"the {entry.kind} '{entry.name}' is no instance of {base.__name__}")
            if not isinstance(entry.summary, str):
                raise TypeError(f"the summary of the {entry.kind} '{entry.name}' is no text")
            if isinstance(entry.value, Device) and not isinstance(entry.value.priority, int | float | None):
                raise TypeError(f"the priority of the device '{entry.name}' is no number")
        for entry in entries:
            self.entries.setdefault((entry.kind, entry.name), []).append(entry)


def _check_version(plugin: Any) -> None:
    """Raise TypeError for a plugin that says that it was written for hooks of another version."""
    written_for = getattr(plugin, "zoplat_api", hookspecs.API)
    if written_for != hookspecs.API:
        raise TypeError(
            f"it was written for version {written_for!r} of the hooks (zoplat_api), and this zoplat has version "
            f"{hookspecs.API}; install a version of the plugin, or of zoplat, that goes with the other"
        )


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Raise TypeError for a function that is marked as a hook and has the name of none."""
    known = [hook_of(kind) for kind in KINDS]
    for name in (name for name in dir(plugin) if name.startswith("zoplat_") and name not in known):
        if manager.parse_hookimpl_opts(plugin, name) is not None:
            raise TypeError(str(unknown("hook", name, known)))
    manager.check_pending()


def _by_name(kind: str, parts: Any) -> Mapping[str, Any]:
    """What a hook returned; TypeError for anything else than parts by name."""
    if isinstance(parts, Mapping) and all(isinstance(name, str) for name in parts):
        return parts
    example = f'{{"my-name": {KINDS[kind].__name__}(…)}}'
    raise TypeError(f"{hook_of(kind)} must return parts by name, such as {example}; it returned {parts!r}")


def _in_common(one: Any, other: Any) -> int:
    """How many fields two parts of one type have equal."""
    return sum(getattr(one, field.name) == getattr(other, field.name) for field in dataclasses.fields(one))


def _variant(name: str, value: Any, parts: dict[str, Any]) -> str:
    """How a part differs from the first of its type that its plugin registers; empty for that one, and for presets."""
    first = next(other for other in parts if type(parts[other]) is type(value))
    if first == name or not dataclasses.is_dataclass(value) or isinstance(value, Preset):
        return ""
    pairs = ((f.name, getattr(value, f.name), getattr(parts[first], f.name)) for f in dataclasses.fields(value))
    return f"{first} with {', '.join(f'{field}={mine!r}' for field, mine, other in pairs if repr(mine) != repr(other))}"


def _clash(entries: list[Entry]) -> str:
    who = " and ".join(f"{entry.distribution} {entry.version}" for entry in entries)
    first = entries[0]
    return (
        f"Two distributions register the {first.kind} '{first.name}': {who}. "
        f"Uninstall one, or set {NO_PLUGINS}=1 to use zoplat's own alone."
    )


@cache
def catalogue() -> Catalogue:
    """The parts of all installed plugins; one that fails to import is listed in `failures` and stops nothing else."""
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
        guard = Guard()
        with guard if distribution != "zoplat" else nullcontext():
            found.add(point.load(), distribution, version)
        if guard.problem:
            found.failures.append(Failure(point.name, distribution, version, guard.problem))
        if guard.printed:
            found.remarks.append(f"Plugin '{point.name}' ({distribution} {version}) prints: {guard.printed[:60]!r}")
    return found


def missing(device: Device) -> str | None:
    """Why a device can't be used here, None where it can; a plugin that fails to answer can't be."""
    answer: str | None = None
    with Guard(seconds=30) as guard:  # it may import a framework
        answer = device.missing()
    return f"its missing() fails: {guard.problem}" if guard.problem else answer


def _source(point: metadata.EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
