"""Parts as tables of settings, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from zoplat.config.renamed import renamed_setting
from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.estimator import Estimator
from zoplat.core.rule import Schedule, Scheduled, StepRule
from zoplat.core.sampler import Sampler
from zoplat.registry import catalogue

Table = dict[str, Any]


PARTS: dict[str, type] = {"estimator": Estimator, "sampler": Sampler, "step-rule": StepRule, "device": Device}


def setting_fields(part: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a part that a user may set; those marked `setting=False` tell registered variants apart."""
    return [field for field in fields(part) if field.metadata.get("setting", True)]


def describe(kind: str, part: Any, name: str | None = None) -> Table:
    """A part as a table: its registered name and all its fields, nested parts as tables of their own."""
    table: Table = {"name": name or catalogue().name_of(kind, part)}
    for field in setting_fields(part):
        value = getattr(part, field.name)
        inner = part_kind(value)
        if value is not None:
            table[field.name] = describe(inner, value) if inner else value
    return table


def part_kind(value: Any) -> str | None:
    """The kind of a part, such as "estimator", None for anything else."""
    return next((kind for kind, base in PARTS.items() if isinstance(value, base)), None)


def made(kind: str, table: Table) -> Any:
    """The part that `describe` described."""
    return changed_part(kind, None, table, kind)


def law_of(estimator: Estimator) -> Sampler | None:
    """The sampler of an estimator's probes, its own or that of the estimator it wraps; None where it has none."""
    values = [getattr(estimator, field.name) for field in setting_fields(estimator)]
    laws = [value for value in values if isinstance(value, Sampler)]
    inner = [law_of(value) for value in values if isinstance(value, Estimator)]
    return next(iter([*laws, *inner]), None)


def as_table(value: Any, path: str) -> Table:
    table = dict(value) if isinstance(value, Mapping) else {"name": value}
    if not isinstance(table.get("name", ""), str):
        raise ZoplatError(f"{path} must be a registered name, or a table of settings with one, got {value!r}")
    return table


def with_changes(part: Any, changes: Table, path: str) -> Any:
    """A part with some fields replaced; names and types are checked against its fields."""
    hints = get_type_hints(type(part))
    names = [field.name for field in setting_fields(part)]
    values: Table = {}
    if isinstance(part, Scheduled):
        changes = _passed_on(changes, names)
    for name, value in (renamed_setting(path, *change) for change in changes.items()):
        here = f"{path}.{name}"
        if name not in names:
            raise unknown(f"field of {path}", name, names)
        old = getattr(part, name)
        kind = part_kind(old)
        values[name] = changed_part(kind, old, value, here) if kind else typed(hints[name], value, here)
    return replace(part, **values) if values else part


def changed_part(kind: str, old: Any, value: Any, path: str) -> Any:
    table = as_table(value, path)
    name = table.pop("name", None)
    if name:
        new = catalogue().entry(kind, name).value
        if old is None or catalogue().name_of(kind, old) != name:
            old = _carried(old, new)
    return with_changes(old, table, path)


def _carried(old: Any, new: Any) -> Any:
    """Another schedule keeps the method's rate, warm-up and decay."""
    if isinstance(old, Schedule) and isinstance(new, Schedule):
        return replace(new, **{field.name: getattr(old, field.name) for field in fields(Schedule)})
    return new


def _passed_on(changes: Table, names: list[str]) -> Table:
    """What a rule lacks and its schedule has is meant for that: rule.lr is rule.schedule.lr."""
    meant = {field.name for field in fields(Schedule)} - set(names)
    inner = {name: value for name, value in changes.items() if name in meant}
    if not inner:
        return changes
    own = {name: value for name, value in changes.items() if name not in meant}
    return {**own, "schedule": {**inner, **as_table(own.get("schedule", {}), "schedule")}}


def typed(hint: Any, value: Any, path: str) -> Any:
    allowed = get_args(hint) or (hint,)
    literal = [a for a in allowed if isinstance(a, str)]
    if literal:
        if value in literal:
            return value
        raise ZoplatError(f"{path} must be one of {', '.join(literal)}, got {value!r}  (-o {path}=…)")
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) is float and not math.isfinite(value):
        raise ZoplatError(f"{path} must be a finite number, got {value}  (-o {path}=…)")
    if not any(type(value) is a for a in allowed):
        wanted = " or ".join(a.__name__ for a in allowed if a is not type(None))
        raise ZoplatError(f"{path} must be {wanted}, got {value!r}  (-o {path}=…)")
    return value
