"""zoplat show: all that is known of one part."""

import dataclasses
import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

import click

from zoplat.cli.options import OUTPUT, PLUGIN, echo_json
from zoplat.cli.terminal import echo
from zoplat.config.parts import field_meanings, setting_fields
from zoplat.config.search import declarations, declared
from zoplat.core.errors import ZoplatError, unknown
from zoplat.registry import KINDS, Entry, catalogue

MATRIX, VECTOR = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias"
"""The arrays of the stand-in model, of 1024 × 1024 and of 1024 weights, for which bytes are given."""
SIZES = (2, 4)
"""Layers of the stand-in models that a method is measured on: figures that differ depend on the model."""
NOT_MEASURED = "not measured"
SEARCHED = "ranges of a search, `zoplat compare --tune-trials`"


@click.command()
@click.argument("name")
@click.option("--bibtex", is_flag=True, help="The publications that its box names, as BibTeX.")
@PLUGIN
@OUTPUT
def show(name: str, bibtex: bool, as_json: bool) -> None:
    """Show NAME: its algorithm box, fields with defaults, cost, and the package it comes from."""
    known = catalogue()
    found = [known.entry(kind, name) for kind in KINDS if (kind, name) in known.entries]
    if not found:
        names = sorted({entry.name for entry in known})
        raise unknown("part", name, names, "`zoplat list estimators`, samplers, step-rules, devices, tasks or presets")
    if bibtex:
        cited = list(dict.fromkeys(text for entry in found for text in entry.citations))
        if not cited:
            raise ZoplatError(f"The box of '{name}' names no publication that references.bib beside it has.")
        if as_json:
            echo_json({"name": name, "bibtex": cited})
        else:
            echo("\n\n".join(cited))
        return
    described = [_described(entry) for entry in found]
    if as_json:
        echo_json(described[0] if len(described) == 1 else described)
        return
    for entry in described:
        echo(f"{entry['kind']} {entry['name']}  ({entry['distribution']} {entry['version']})\n")
        echo(entry["box"])
        if NOT_MEASURED in entry["cost"]:
            echo(f"\n{entry['cost'].pop(NOT_MEASURED)}")
        titled = {"cost of a step": entry["cost"], "fields and defaults": entry["fields"], SEARCHED: entry["search"]}
        for title, rows in titled.items():
            if rows:
                click.echo(f"\n{title}")
            for path, value in rows.items():
                echo(f"  {path} = {value}")


def _described(entry: Entry) -> dict[str, Any]:
    preset = entry.kind == "preset"
    about = f"{entry.summary}\n\nSource: {entry.value.source}" if preset else entry.box
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "distribution": entry.distribution,
        "version": entry.version,
        "box": about if preset else f"{about}\n\n{_documentation(entry.value)}",
        "cost": cost(entry),
        "fields": _preset(entry.value) if preset else dict(_fields(entry.value)),
        "search": _search(entry),
    }


def _search(entry: Entry) -> dict[str, str]:
    """Where `zoplat compare --tune-trials` looks for settings of a part, by dotted path, in words."""
    if entry.kind not in ("estimator", "sampler", "step-rule"):
        return {}
    found = declared(entry.value) if entry.kind == "estimator" else declarations(entry.value)
    return {path: str(search) for path, (search, _, _) in found.items()}


def _documentation(part: Any) -> str:
    """A part's docstring with all of its settings, those that are explained where it builds on others included."""
    head = (inspect.getdoc(type(part)) or "").partition("Attributes:")[0].rstrip()
    known = field_meanings(type(part))
    lines = [f"{field.name}: {known[field.name]}" for field in setting_fields(part) if field.name in known]
    wrapped = [textwrap.fill(line, 110, initial_indent="    ", subsequent_indent="        ") for line in lines]
    return "\n".join([f"{head}\n\nAttributes:", *wrapped]) if lines else head


def cost(entry: Entry) -> dict[str, Any]:
    """What a step takes with an estimator and its rule, or what a rule adds to MeZO; empty for other parts.

    Measured by dry runs on stand-in models. A figure that depends on the model is a sentence in place of a number.
    Where a part can't be measured, the only key is "not measured", with the reason.
    """
    if entry.kind not in ("estimator", "step-rule"):
        return {}
    from zoplat.training.dry_run import measure_cost, rule_cost, stand_in_model

    measure = measure_cost if entry.kind == "estimator" else rule_cost
    try:
        each = [measure(entry.value, stand_in_model(layers)) for layers in SIZES]
    except ZoplatError as problem:
        return {NOT_MEASURED: str(problem)}
    return {
        "forward passes": _figure(one.forward_passes for one in each),
        "passes over the weights": _figure(one.passes_over_weights for one in each),
        "bytes kept for a matrix of 1024 × 1024": _figure(one.state_bytes[MATRIX] for one in each),
        "bytes kept for a vector of 1024": _figure(one.state_bytes[VECTOR] for one in each),
    }


def _figure(by_model: Iterable[float]) -> int | float | str:
    """One number, or a sentence where it is not the same for models of all sizes."""
    amounts = [_rounded(amount) for amount in by_model]
    if len(set(amounts)) == 1:
        return amounts[0]
    by_size = ", ".join(f"{amount:.4g} with {layers} layers" for amount, layers in zip(amounts, SIZES, strict=True))
    return f"depends on the model: {by_size}"


def _rounded(amount: float) -> int | float:
    return int(amount) if amount == int(amount) else round(amount, 3)


def _preset(preset: Any) -> dict[str, Any]:
    return {**dict(_leaves(preset.settings)), **{f"grid of {name}": values for name, values in preset.grid.items()}}


def _leaves(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in table.items():
        rows += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows


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
