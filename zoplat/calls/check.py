"""`zoplat.check`: whether parts keep the promises of their kinds, as a function."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from zoplat.calls.frames import frame
from zoplat.calls.plugins import Files, registered
from zoplat.core.errors import unknown
from zoplat.registry import Entry
from zoplat.report.pages import Part, Rows, piece
from zoplat.testing.check import Finding
from zoplat.testing.check import check as findings_of
from zoplat.testing.target import Target, opened


@dataclass(frozen=True)
class CheckedPart:
    """One part, and the outcome of each property of its kind.

    Attributes:
        entry: the part as it is registered.
        findings: one for each property.
    """

    entry: Entry
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, entry: Entry, model: str | None = None) -> CheckedPart:
        """Check a part; a device that opens models is tried on `model`."""
        return cls(entry, tuple(findings_of(entry, model=model)))

    @property
    def counts(self) -> Counter[str]:
        """Outcome → number of properties."""
        return Counter(finding.outcome for finding in self.findings)


@dataclass(frozen=True)
class CheckResult:
    """What `zoplat.check` has found.

    Attributes:
        target: what was checked.
        parts: the parts that it registers.
        failures: plugins of the target that could not be loaded, and why.
    """

    target: str
    parts: tuple[CheckedPart, ...]
    failures: tuple[str, ...]

    @property
    def has_held(self) -> bool:
        """Whether no property fails, and all plugins could be loaded."""
        return not self.failures and not any(part.counts["failed"] for part in self.parts)

    def table(self) -> Any:
        """One row a property, as a pandas frame: kind, name, property, outcome, message.

        Raises:
            ZoplatError: pandas is not installed.
        """
        rows = [
            {"kind": part.entry.kind, "name": part.entry.name, "property": one.name, **_outcome(one)}
            for part in self.parts
            for one in part.findings
        ]
        return frame(rows, "table()")

    def _repr_html_(self) -> str:
        """A row a part, and what fails, for notebooks."""
        kinds = ("held", "not applicable", "failed")
        body = [[p.entry.kind, p.entry.name, *(str(p.counts[kind]) for kind in kinds)] for p in self.parts]
        wrong = [[p.entry.name, f.name, f.message] for p in self.parts for f in p.findings if f.outcome == "failed"]
        parts: list[Part] = [Rows(("kind", "name", *kinds), body, words=2)]
        parts += [Rows(("part", "property that fails", "why"), wrong, words=3)] if wrong else []
        return piece(
            f"{'Nothing fails' if self.has_held else 'Not all holds'} · {self.target}", [*parts, *self.failures]
        )


def check(target: str, *, only: str | None = None, model: str | None = None, plugin: Files = ()) -> CheckResult:
    """Try what a target registers, as `zoplat check` does: does each part keep the promises of its kind?

    Args:
        target: an installed distribution, a registered name such as "lozo", a module, a .py file, or a folder.
        only: the name of one part; all of them when None.
        model: a small model on which devices are tried that open models.
        plugin: Python files whose parts are used too.

    Returns:
        The result, with `.has_held`, `.parts` and `.table()`. Properties that fail raise nothing.

    Raises:
        ZoplatError: there is no such target, it can't be imported, or it registers nothing that has a contract.
    """
    registered(plugin)
    with opened(target) as found:
        parts = tuple(CheckedPart.of(entry, model) for entry in chosen(found, only))
    return CheckResult(target, parts, () if only else tuple(found.failures))


def chosen(found: Target, only: str | None) -> list[Entry]:
    """The parts of a target that are checked; raises ZoplatError where none has the name."""
    entries = [entry for entry in found.entries if only in (None, entry.name)]
    if not entries and only:
        raise unknown("part", only, {entry.name for entry in found.entries})
    return entries


def _outcome(finding: Finding) -> dict[str, str]:
    return {"outcome": finding.outcome, "message": finding.message}
