"""zoplat show: one part, whole."""

import dataclasses
import inspect
import json
from typing import Any

import click

from zoplat.cli.options import JSON
from zoplat.errors import unknown
from zoplat.plugins import KINDS, Entry, catalogue
from zoplat.settings import setting_fields


@click.command()
@click.argument("name")
@JSON
def show(name: str, as_json: bool) -> None:
    """Show NAME: its algorithm box, fields with defaults, and the package it comes from."""
    known = catalogue()
    found = [known.entry(kind, name) for kind in KINDS if (kind, name) in known.entries]
    if not found:
        names = sorted({entry.name for entry in known})
        raise unknown("part", name, names, "`zoplat list estimators`, samplers, step-rules, devices or tasks")
    described = [_described(entry) for entry in found]
    if as_json:
        click.echo(json.dumps(described[0] if len(described) == 1 else described))
        return
    for entry in described:
        click.echo(f"{entry['kind']} {entry['name']}  ({entry['distribution']} {entry['version']})\n")
        click.echo(entry["box"])
        click.echo("\nfields and defaults")
        for path, value in entry["fields"].items():
            click.echo(f"  {path} = {value}")


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "distribution": entry.distribution,
        "version": entry.version,
        "box": f"{entry.box}\n\n{inspect.getdoc(type(entry.value)) or ''}",
        "fields": dict(_fields(entry.value)),
    }


def _fields(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for field in setting_fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            rows.append((prefix + field.name, type(inner).__name__))
            rows += _fields(inner, f"{prefix}{field.name}.")
        elif not callable(inner):
            rows.append((prefix + field.name, repr(inner)))
    return rows
