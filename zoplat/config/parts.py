"""Parts as tables of settings, and back."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, get_args, get_type_hints

from zoplat.config.renamed import is_retired, renamed_setting
from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.estimator import Estimator
from zoplat.core.fields import FieldError
from zoplat.core.rule import Schedule, Scheduled
from zoplat.core.sampler import Sampler
from zoplat.registry import KINDS, catalogue

Table = dict[str, Any]
"""Settings by name: plain values, and such tables."""
T = TypeVar("T")

PARTS = {kind: KINDS[kind] for kind in ("estimator", "sampler", "step-rule", "device")}
"""Kinds of parts that have settings of their own, and may be fields of other parts."""
SHORTHANDS = {"lr": "rule.lr", "eps": "eps", "queries": "queries"}
"""Flags that set a field of the estimator or of its rule."""


def setting_fields(part: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a part that a user may set; those marked `setting=False` tell registered variants apart."""
    return [field for field in fields(part) if field.metadata.get("setting", True)]


def field_meanings(kind: type) -> dict[str, str]:
    """Field → text, from the Attributes of a class's docstring and of those that it builds on."""
    known: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for names, text in re.findall(r"^    ([a-z_0-9, ]+): ((?:.|\n     )+)", inspect.getdoc(base) or "", re.M):
            known |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return known


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
    """The kind of a part, such as "estimator"; None for anything else."""
    return next((kind for kind, base in PARTS.items() if isinstance(value, base)), None)


def part_from(kind: str, table: Table) -> Any:
    """The part that `describe` made a table of."""
    return changed_part(kind, None, table, kind)


def law_of(estimator: Estimator[Any]) -> Sampler | None:
    """The sampler of an estimator's directions, its own or that of the estimator it wraps; None where it has none."""
    values = [getattr(estimator, field.name) for field in setting_fields(estimator)]
    laws = [value for value in values if isinstance(value, Sampler)]
    inner = [law_of(value) for value in values if isinstance(value, Estimator)]
    return next(iter([*laws, *inner]), None)


def as_table(value: Any, path: str) -> Table:
    """A registered name or a table as a table; raises ZoplatError, which names the path, for anything else."""
    table = dict(value) if isinstance(value, Mapping) else {"name": value}
    if not isinstance(table.get("name", ""), str):
        raise ZoplatError(f"{path} must be a registered name, or a table of settings with one, got {value!r}")
    return table


def with_changes(part: T, changes: Table, path: str) -> T:
    """A part with some fields replaced.

    Args:
        part: a frozen dataclass.
        changes: field → value, or a table of changes where the field is a part itself.
        path: dotted path of the part in the settings, for messages.

    Raises:
        ZoplatError: a field that the part does not have, a value of the wrong type or out of range; a FieldError says
            how the user sets the field.
    """
    own, inherited = _split_for_schedule(part, changes)
    values = _values(part, own, path)
    if inherited:
        schedule = {**inherited, **as_table(own.get("schedule", {}), "schedule")}
        try:
            values |= _values(part, {"schedule": schedule}, path)
        except FieldError as problem:
            raise problem.set_by(flag_of(f"{path}.{problem.name}")) if problem.name in inherited else problem from None
    try:
        return replace(part, **values) if values else part  # type: ignore[type-var]  # parts are dataclasses
    except FieldError as problem:
        raise problem.set_by(flag_of(f"{path}.{problem.name}")) from None


def _split_for_schedule(part: Any, changes: Table) -> tuple[Table, Table]:
    """The changes of a part's own fields, and those that are meant for its schedule: rule.lr is rule.schedule.lr."""
    if not isinstance(part, Scheduled):
        return changes, {}
    meant = {field.name for field in fields(Schedule)} - {field.name for field in setting_fields(part)}
    inherited = {name: value for name, value in changes.items() if name in meant}
    return {name: value for name, value in changes.items() if name not in meant}, inherited


def _values(part: Any, changes: Table, path: str) -> Table:
    """New values by field, their names and types checked against the fields of a part."""
    kind, hints = part_kind(part), get_type_hints(type(part))
    names = [field.name for field in setting_fields(part)]
    values: Table = {}
    for given, value in changes.items():
        name = given
        if kind and name not in names:
            name, value = renamed_setting(kind, given, value)
            if name not in names and is_retired(kind, catalogue().name_of(kind, part), name):
                continue
        if name not in names:
            raise unknown(f"field of {path}", given, names)
        here, old = f"{path}.{name}", getattr(part, name)
        inner = part_kind(old)
        values[name] = changed_part(inner, old, value, here) if inner else typed(hints[name], value, here)
    return values


def changed_part(kind: str, old: Any, value: Any, path: str) -> Any:
    """A part with changes: a table of settings, the name of another part, or both."""
    table = as_table(value, path)
    name = table.pop("name", None)
    if name:
        new = catalogue().entry(kind, name).value
        if old is None or catalogue().name_of(kind, old) != name:
            old = _with_rate_of(old, new)
    return with_changes(old, table, path)


def _with_rate_of(old: Any, new: Any) -> Any:
    """A new schedule with the rate, warm-up and decay of the one it replaces; any other part as it is."""
    if isinstance(old, Schedule) and isinstance(new, Schedule):
        return replace(new, **{field.name: getattr(old, field.name) for field in fields(Schedule)})
    return new


WITHOUT_FLAG = ("sync_every",)
"""Settings of a run that no flag of their own gives."""


def flag_of(path: str) -> str:
    """How the user sets the field at a dotted path.

    >>> flag_of("estimator.rule.lr"), flag_of("estimator.rule.schedule.decay"), flag_of("batch_size")
    ('--lr', '-o rule.schedule.decay=…', '--batch-size')
    """
    if "." not in path and path not in WITHOUT_FLAG:
        return f"--{path.replace('_', '-')}"
    path = path.removeprefix("estimator.")
    return next((f"--{flag}" for flag, field in SHORTHANDS.items() if field == path), f"-o {path}=…")


def typed(hint: Any, value: Any, path: str) -> Any:
    """A value of the type that a field is annotated with; whole numbers become floats where those are wanted.

    Raises:
        FieldError: it has another type, is not finite, or is none of the strings of a Literal.
    """
    allowed, flag = get_args(hint) or (hint,), flag_of(path)
    literal = [a for a in allowed if isinstance(a, str)]
    if literal:
        if value in literal:
            return value
        raise FieldError(path, f"must be one of {', '.join(literal)}, got {value!r}", flag)
    if float in allowed and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise FieldError(path, "must be a finite number, got one of more than 308 digits", flag) from None
    if type(value) is float and not math.isfinite(value):
        raise FieldError(path, f"must be a finite number, got {value}", flag)
    if not any(type(value) is a for a in allowed):
        wanted = " or ".join(a.__name__ for a in allowed if a is not type(None))
        raise FieldError(path, f"must be {wanted}, got {value!r}", flag)
    return value
