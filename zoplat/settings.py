"""What a run is asked to do: registered settings, then the recipe, then a file, then flags; written back as TOML."""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from zoplat.device import LOSSES, Base, Device, Head, Tuning
from zoplat.errors import ZoplatError, unknown
from zoplat.estimator import Estimator
from zoplat.plugins import Catalogue, catalogue
from zoplat.rule import Schedule, Scheduled, StepRule
from zoplat.sampler import Sampler

Table = dict[str, Any]
PARTS: dict[str, type] = {"estimator": Estimator, "sampler": Sampler, "step-rule": StepRule, "device": Device}
SECTIONS = {"estimator": "lozo", "device": "auto", "tune": "full"}
"""Tables of a settings file, and the name each part has when none is given."""
SHORTHANDS = {"lr": "rule.lr", "eps": "eps", "queries": "queries"}


@dataclass(frozen=True)
class RunConfig:
    """A whole run, resolved.

    Attributes:
        estimator, device: the parts, as values; `estimator_name` and `device_name` are how they were asked for.
        model: hub id, folder, .gguf file or packaged:NAME; None for the device's own.
        task: registered name of the task.
        tune: which weights move.
        data: folder with train, dev and test.jsonl; None for the packaged rows.
        dtype: of the model's weights; "auto" lets the device choose.
        seed: every random stream of the run is derived from it.
        base: how frozen weights are held: "plain" in `dtype`, or linear layers in "int8".
        head: what the model makes of a text; "auto" for what its configuration says.
        template: how a row becomes text: "prompt", "plain" for the same without words of instruction, "chat" for a
            prompt as the turn of a user; "auto" for what suits the head.
        objective: what training descends: "options", "tokens", "auto" for the task's own of the two; or one minus
            a score: a metric, "module:function", "command:PROGRAM".
        steps, max_passes, max_seconds: the first that is reached ends the run.
        batch_size: rows of a training batch.
        micro_batch_size: rows that the model reads at a time; all of the batch when None.
        evaluate_every: steps between evaluations on dev, each with a checkpoint.
        limit: at most this many rows of each split.
        per_class: of train and dev, this many rows of every class, drawn with the seed; all when None.
    """

    estimator: Estimator
    estimator_name: str
    device: Device
    device_name: str
    tune: Tuning
    model: str | None = None
    task: str = "sentiment"
    data: str | None = None
    dtype: str = "auto"
    base: Base = "plain"
    head: Head = "auto"
    template: Literal["auto", "prompt", "plain", "chat"] = "auto"
    objective: str = "auto"
    seed: int = 0
    steps: int | None = None
    max_passes: int | None = None
    max_seconds: float | None = None
    batch_size: int = 16
    micro_batch_size: int | None = None
    evaluate_every: int | None = None
    limit: int | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "max_passes",
            "max_seconds",
            "batch_size",
            "micro_batch_size",
            "evaluate_every",
            "limit",
            "per_class",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ZoplatError(f"{name} must be positive, got {value}  (--{name.replace('_', '-')})")
        if not 0 <= self.seed < 2**63:
            raise ZoplatError(f"seed must lie in [0, 2⁶³), got {self.seed}  (--seed)")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise unknown("dtype", self.dtype, ["auto", "float32", "bfloat16", "float16"])
        if self.steps is None and self.max_passes is None:
            self._check_horizon()
        if missing := self.estimator.asks - self.device.answers:
            able = [e.name for e in catalogue() if e.kind == "device" and self.estimator.asks <= e.value.answers]
            raise ZoplatError(
                f"'{self.estimator_name}' asks the device for {', '.join(sorted(missing))}; "
                f"'{self.device_name}' answers only {', '.join(sorted(self.device.answers))}."
                + (f" Use --device {' or '.join(able)}." if able else "")
            )
        if self.is_judged and (asked := self.estimator.asks & {"jvp", "gradient"}):
            raise ZoplatError(
                f"'{self.estimator_name}' asks for a {min(asked)}, and --objective {self.objective} has none."
            )

    @property
    def read_at_once(self) -> int:
        """Rows that the model reads at a time."""
        return self.micro_batch_size or self.batch_size

    @property
    def is_judged(self) -> bool:
        """Whether the loss is made from a score, which has no derivative."""
        return self.objective not in ("auto", *LOSSES)

    def _check_horizon(self) -> None:
        rule = self.estimator.rule
        if not (rule.has_horizon or self.estimator.has_horizon):
            return
        name = catalogue().name_of("step-rule", rule)
        who, instead = (
            (f"Step rule '{name}'", ", or --step-rule constant")
            if rule.has_horizon
            else (f"'{self.estimator_name}' as it is set", "")
        )
        raise ZoplatError(
            f"{who} must know how long the run is, and --max-seconds alone does not say. "
            f"Give --steps or --max-passes{instead}."
        )

    def table(self) -> Table:
        """The same settings as nested plain values, as in config.toml."""
        plain = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in (*SECTIONS, "estimator_name", "device_name")
        }
        table = {name: value for name, value in plain.items() if value is not None}
        table["tune"] = dataclasses.asdict(self.tune)
        table["device"] = describe("device", self.device, self.device_name)
        table["estimator"] = describe("estimator", self.estimator, self.estimator_name)
        return table

    def toml(self) -> str:
        """The text of config.toml; given back with --config it repeats the run."""
        import tomli_w

        return str(tomli_w.dumps(self.table()))


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
    return _part(kind, None, table, kind)


def law_of(estimator: Estimator) -> Sampler | None:
    """The sampler of an estimator's probes, its own or that of the estimator it wraps; None where it has none."""
    values = [getattr(estimator, field.name) for field in setting_fields(estimator)]
    laws = [value for value in values if isinstance(value, Sampler)]
    inner = [law_of(value) for value in values if isinstance(value, Estimator)]
    return next(iter([*laws, *inner]), None)


def resolve(settings: Mapping[str, Any]) -> RunConfig:
    """The run that flags (or the keywords of `zoplat.run`) describe.

    Keys are flag names with underscores; `config` is a file or a table, `preset` the name of one, `options` maps
    dotted paths to values.
    Values that are None count as not given.

    Raises:
        ZoplatError: an unknown name or field, a value of the wrong type, parts that do not fit.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    source, preset = given.pop("config", {}), given.pop("preset", None)
    file = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    flags = _flags(given)
    layers = [file, flags]
    if preset:
        layers.insert(0, copy.deepcopy(catalogue().entry("preset", preset).value.settings))
    device = _device_name(catalogue(), _name("device", layers) or SECTIONS["device"])
    chosen = any({"model", "task", "data"} & layer.keys() for layer in layers) or _name("tune", layers)
    if not chosen and not preset and catalogue().entry("device", device).value.takes_models:
        layers.insert(0, _recipe(_name("estimator", layers) or SECTIONS["estimator"], layers))
    return build(layers)


def build(layers: Iterable[Table]) -> RunConfig:
    """One config from tables in rising order of authority."""
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
            table = _section(layer.pop(section, {}), section)
            if table.pop("name", names[section]) == names[section]:  # settings of another method don't carry over
                parts[section] = _changed(parts[section], table, section)
        plain.update(layer)
    plain = _plain(plain)
    if not {"steps", "max_passes", "max_seconds"} & plain.keys():
        plain["steps"] = 1000
    plain.setdefault("evaluate_every", max(1, plain["steps"] // 4) if "steps" in plain else 500)
    return RunConfig(**parts, **plain, estimator_name=names["estimator"], device_name=device_name)


def read_toml(path: Path) -> Table:
    """A settings file.

    Raises:
        ZoplatError: it can't be read, or is not TOML; the line is named.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ZoplatError(f"--config: {path} can't be read: {problem.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ZoplatError(f"--config: {path} is not TOML: {problem}.") from None


def _flags(given: Table) -> Table:
    """Flags as a table of the same shape as a file."""
    table: Table = {}
    options = dict(given.pop("options", {}))
    for flag, path in (("sampler", "sampler.name"), ("step_rule", "rule.name")):
        part = given.pop(flag, None)
        if part is not None:
            _put(table, ["estimator", *path.split(".")[:-1]], _section(_as_table(flag.replace("_", "-"), part), flag))
    for section in SECTIONS:
        part = given.pop(section, None)
        if part is not None:
            _put(table, [section], _section(_as_table(section, part), section))
    for flag, path in SHORTHANDS.items():
        if flag in given:
            options.setdefault(path, given.pop(flag))
    table.update({name: str(value) if isinstance(value, Path) else value for name, value in given.items()})
    names = [field.name for field in fields(RunConfig)]
    for path, value in options.items():
        steps = path.split(".")
        if steps[0] not in names:
            steps.insert(0, "estimator")
        _put(table, steps, _literal(value))
    return table


def _as_table(kind: str, part: Any) -> Any:
    return describe(kind, part) if part_kind(part) else part


def _put(table: Table, path: list[str], value: Any) -> None:
    for step in path[:-1]:
        if not isinstance(table.setdefault(step, {}), dict):
            table[step] = {"name": table[step]}
        table = table[step]
    if isinstance(table.get(path[-1]), dict):
        table[path[-1]] |= value if isinstance(value, dict) else {"name": value}
    else:
        table[path[-1]] = value


def _literal(value: Any) -> Any:
    """A value given as text, read as TOML where it can be."""
    if not isinstance(value, str):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        try:
            return float(value)  # 1e-4 without a dot is no TOML
        except ValueError:
            return value


def _section(value: Any, path: str) -> Table:
    table = dict(value) if isinstance(value, Mapping) else {"name": value}
    if not isinstance(table.get("name", ""), str):
        raise ZoplatError(f"{path} must be a registered name, or a table of settings with one, got {value!r}")
    return table


def _name(section: str, layers: Iterable[Table]) -> str | None:
    names = [_section(layer[section], section).get("name") for layer in layers if section in layer]
    return next((name for name in reversed(names) if name), None)


def _device_name(known: Catalogue, name: str) -> str:
    if name != "auto":
        return name
    ranked = [e for e in known if e.kind == "device" and e.value.priority is not None]
    for entry in sorted(ranked, key=lambda entry: -entry.value.priority):
        if entry.value.missing() is None:
            return entry.name
    raise ZoplatError("No device can be used here: " + "; ".join(f"{e.name}: {e.value.missing()}" for e in ranked))


def _changed(part: Any, changes: Table, path: str) -> Any:
    """A part with some fields replaced; names and types are checked against its fields."""
    hints = get_type_hints(type(part))
    names = [field.name for field in setting_fields(part)]
    values: Table = {}
    if isinstance(part, Scheduled):
        changes = _passed_on(changes, names)
    for name, value in changes.items():
        here = f"{path}.{name}"
        if name not in names:
            raise unknown(f"field of {path}", name, names)
        old = getattr(part, name)
        kind = part_kind(old)
        values[name] = _part(kind, old, value, here) if kind else _typed(hints[name], value, here)
    return replace(part, **values) if values else part


def _part(kind: str, old: Any, value: Any, path: str) -> Any:
    table = _section(value, path)
    name = table.pop("name", None)
    if name:
        new = catalogue().entry(kind, name).value
        if old is None or catalogue().name_of(kind, old) != name:
            old = _carried(old, new)
    return _changed(old, table, path)


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
    return {**own, "schedule": {**inner, **_section(own.get("schedule", {}), "schedule")}}


def _typed(hint: Any, value: Any, path: str) -> Any:
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


def _plain(values: Table) -> Table:
    hints = get_type_hints(RunConfig)
    names = [f.name for f in fields(RunConfig) if f.name not in ("estimator_name", "device_name")]
    for name in values:
        if name not in names:
            raise unknown("setting", name, names)
    return {name: _typed(hints[name], value, name) for name, value in values.items()}


def _recipe(estimator: str, layers: Iterable[Table]) -> Table:
    """Settings found for the packaged model and task, when nothing else was chosen; its budget if there is no other."""
    recipes = tomllib.loads(resources.files("zoplat").joinpath("recipe.toml").read_text(encoding="utf-8"))
    table: Table = recipes["run"]
    if any({"steps", "max_passes"} & layer.keys() for layer in layers):
        del table["max_passes"]
    own = recipes["estimator"].get(estimator)
    if own:
        table["estimator"] = own
    return table


def changed_settings(old: Table, new: Table, path: str = "") -> list[str]:
    """One line for each setting that differs between two tables."""
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += changed_settings(before, after, f"{path}{name}.")
        elif before != after:
            lines.append(f"{path}{name}: {before!r} → {after!r}")
    return lines
