"""Settings in layers: a recipe or preset, then a file, then flags; a later layer overrides an earlier one."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from zoplat.config.local import adopt
from zoplat.config.parts import (
    SHORTHANDS,
    Table,
    as_table,
    describe,
    flag_of,
    part_kind,
    setting_fields,
    typed,
    with_changes,
)
from zoplat.config.run_config import SECTIONS, RunConfig
from zoplat.config.usual import origins, recipes, usual_values
from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.fields import FieldError
from zoplat.core.model_spec import Tuning
from zoplat.registry import Catalogue, catalogue, missing
from zoplat.tasks import commands


def resolve(settings: Mapping[str, Any]) -> RunConfig:
    """The run that flags, or the keywords of `zoplat.run`, describe.

    Args:
        settings: flag names with underscores → values, None where a flag was not given. `config` is a file or a table,
            `preset` the name of a preset, `options` maps dotted paths to values.

    Raises:
        ZoplatError: an unknown name or field, a value of the wrong type or out of range, parts that do not fit.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    source, preset = given.pop("config", {}), given.pop("preset", None)
    file = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    flags = _flags(given)
    layers = [file, flags]
    sources = ["settings given" if isinstance(source, Mapping) else str(source), "given"]
    if preset:
        layers.insert(0, copy.deepcopy(catalogue().entry("preset", preset).value.settings))
        sources.insert(0, f"preset {preset}")
    device = _device_name(catalogue(), _name("device", layers) or SECTIONS["device"])
    chosen = any({"model", "task", "data"} & layer.keys() for layer in layers) or _name("tune", layers)
    if not chosen and not preset and catalogue().entry("device", device).value.takes_models:
        layers.insert(0, _recipe(_name("estimator", layers) or SECTIONS["estimator"], layers))
        sources.insert(0, "recipe")
    estimator, tune = (_name(part, layers) or SECTIONS[part] for part in ("estimator", "tune"))
    if not preset and (usual := usual_values(estimator, tune)):
        layers.insert(0, {"estimator": usual})
        sources.insert(0, f"usual for {estimator} with {tune}")
    origin = [(where, copy.deepcopy(layer)) for where, layer in zip(sources, layers, strict=True)]
    try:
        config = build(layers)
    except FieldError as problem:
        is_of_file = _has(file, problem.name) and not _has(flags, problem.name) and not isinstance(source, Mapping)
        raise (problem.set_by(f"in {source}") if is_of_file else problem) from None
    return replace(config, origins=origins(config.estimator, estimator, origin))


def chosen_paths(settings: Mapping[str, Any]) -> set[str]:
    """Dotted paths of the estimator's settings that flags, file or preset give, as `-o` takes them.

    Args:
        settings: as for `resolve`.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    source, preset = given.pop("config", {}), given.pop("preset", None)
    file = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    layers = [catalogue().entry("preset", preset).value.settings] if preset else []
    tables = [as_table(layer.get("estimator", {}), "estimator") for layer in (*layers, file, _flags(given))]
    return {path.replace("schedule.", "") for table in tables for path in _paths(table)}


def _has(table: Table, path: str) -> bool:
    """Whether nested tables have a field of the name that ends a path."""
    return any(known.rpartition(".")[2] == path.rpartition(".")[2] for known in _paths(table))


def _paths(table: Table, path: str = "") -> Iterator[str]:
    """Dotted paths of the plain values in nested tables."""
    for name, value in table.items():
        yield from _paths(value, f"{path}{name}.") if isinstance(value, dict) else [path + name]


def build(layers: Iterable[Table]) -> RunConfig:
    """One config from tables, where a later table overrides an earlier one."""
    layers = [{**layer} for layer in layers]
    known = catalogue()
    names = {section: _name(section, layers) or default for section, default in SECTIONS.items()}
    device_name = _device_name(known, names["device"])
    parts: Table = {
        "estimator": known.entry("estimator", names["estimator"]).value,
        "device": known.entry("device", device_name).value,
        "tune": Tuning(name=names["tune"]),
    }
    plain: Table = {}
    for layer in layers:
        for section in SECTIONS:
            table = as_table(layer.pop(section, {}), section)
            if table.pop("name", names[section]) == names[section]:  # a layer about another part does not apply
                parts[section] = with_changes(parts[section], table, section)
        plain.update(layer)
    plain = _plain(plain)
    if not {"steps", "max_passes", "max_seconds", "max_tokens", "max_joules"} & plain.keys():
        plain["steps"] = 1000
    plain.setdefault("evaluate_every", max(1, plain["steps"] // 4) if "steps" in plain else 500)
    try:
        return RunConfig(**parts, **plain, estimator_name=names["estimator"], device_name=device_name)
    except FieldError as problem:
        raise problem.set_by(flag_of(problem.name)) from None


def read_toml(path: Path) -> Table:
    """A settings file.

    Raises:
        ZoplatError: it can't be read, or is not TOML; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise ZoplatError(f"--config: {path} can't be read: {problem.strerror}.") from None
    except RecursionError:
        raise ZoplatError(f"--config: {path} is not TOML for settings: too many brackets within brackets.") from None
    except ValueError as problem:  # no TOML, no UTF-8, a number of thousands of digits
        raise ZoplatError(f"--config: {path} is not TOML: {problem}.") from None


def _flags(given: Table) -> Table:
    """Flags as a table of the form that a settings file has."""
    table: Table = {}
    options = dict(given.pop("options", {}))
    commands.typed(*(options.get(name, given.get(name)) for name in ("objective", "task")))
    for flag, path in (("sampler", "sampler.name"), ("step_rule", "rule.name")):
        part = given.pop(flag, None)
        if part is not None:
            _put(table, ["estimator", *path.split(".")[:-1]], as_table(_described(flag.replace("_", "-"), part), flag))
    for section in SECTIONS:
        part = given.pop(section, None)
        if part is not None:
            _put(table, [section], as_table(_described(section, part), section))
    for flag, path in SHORTHANDS.items():
        if flag in given:
            options.setdefault(path, given.pop(flag))
    table.update({name: str(value) if isinstance(value, Path) else value for name, value in given.items()})
    names = [field.name for field in setting_fields(RunConfig)]
    for path, value in options.items():
        steps = path.split(".")
        if steps[0] not in names:
            steps.insert(0, "estimator")
        _put(table, steps, _literal(value))
    return table


def _described(kind: str, part: Any) -> Any:
    """A part that was given as a value as a table; a name or a table as it is."""
    adopt(part)
    return describe(kind, part) if part_kind(part) else part


def _put(table: Table, path: list[str], value: Any) -> None:
    """Set a value in nested tables; a name on the way becomes a table with that name."""
    for step in path[:-1]:
        if not isinstance(table.setdefault(step, {}), dict):
            table[step] = {"name": table[step]}
        table = table[step]
    if isinstance(table.get(path[-1]), dict):
        table[path[-1]] |= value if isinstance(value, dict) else {"name": value}
    else:
        table[path[-1]] = value


def _literal(value: Any) -> Any:
    """A value given as text, parsed as TOML where that is possible."""
    if not isinstance(value, str):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except RecursionError:
        raise ZoplatError(f"-o: too many brackets within brackets: {value[:40]}…") from None
    except ValueError:
        try:
            return float(value)  # such as .5, which TOML does not allow
        except ValueError:
            return value


def _name(section: str, layers: Iterable[Table]) -> str | None:
    """The name that the last layer to give one has for a part; None where none does."""
    names = [as_table(layer[section], section).get("name") for layer in layers if section in layer]
    return next((name for name in reversed(names) if name), None)


def _device_name(known: Catalogue, name: str) -> str:
    """The name of a device; of "auto", the usable one with the highest priority."""
    if name != "auto":
        return name
    ranked = [e for e in known if e.kind == "device" and e.value.priority is not None]
    for entry in sorted(ranked, key=lambda entry: -entry.value.priority):
        if missing(entry.value) is None:
            return entry.name
    raise ZoplatError("No device can be used here: " + "; ".join(f"{e.name}: {missing(e.value)}" for e in ranked))


def _plain(values: Table) -> Table:
    """The settings that are not parts, their names and types checked against the fields of `RunConfig`."""
    hints = get_type_hints(RunConfig)
    names = [f.name for f in setting_fields(RunConfig) if f.name not in ("estimator_name", "device_name")]
    for name in values:
        if name not in names:
            raise unknown("setting", name, names)
    return {name: typed(hints[name], value, name) for name, value in values.items()}


def _recipe(estimator: str, layers: Iterable[Table]) -> Table:
    """The settings of recipe.toml for the packaged model and task; its budget unless another layer has one."""
    known = recipes()
    table: Table = known["run"]
    if any({"steps", "max_passes"} & layer.keys() for layer in layers):
        del table["max_passes"]
    own = known["estimator"].get(estimator)
    if own:
        table["estimator"] = own
    return table


FREE = ("memory", "eval_batch_size", "device.state")
"""Settings that change no bit of a run: how much memory it may take, how it is scored, where its state is kept."""


def without_free(lines: Iterable[str]) -> list[str]:
    """Lines of `changed_settings` without those about settings that change no bit of a run."""
    return [line for line in lines if line.partition(":")[0] not in FREE]


def changed_settings(old: Table, new: Table, path: str = "") -> list[str]:
    """One line for each setting that differs between two tables, such as "rule.lr: 0.1 → 0.2".

    Of a part that is another one, only the name: its settings are those of another part.
    """
    lines = []
    if "name" in old and "name" in new and old["name"] != new["name"]:
        return [f"{path}name: {old['name']!r} → {new['name']!r}"]
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += changed_settings(before, after, f"{path}{name}.")
        elif before != after:
            lines.append(f"{path}{name}: {before!r} → {after!r}")
    return lines
