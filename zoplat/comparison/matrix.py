"""The matrix of a comparison: methods, tasks, models, tunings and seeds, and the cells that they make."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from zoplat.comparison.cell import Cell
from zoplat.comparison.plugins import check_named
from zoplat.config.layers import read_toml, resolve
from zoplat.config.parts import law_of
from zoplat.core.errors import ZoplatError
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.registry import catalogue
from zoplat.tasks.data import find

TUNE_SEED = 1000
"""Seed of the trials of a search: none of those that are reported, unless somebody asks for so many."""
GIVEN = "given"
"""Table of a study's file for what flags said; it wins over the rest of the file."""


@dataclass(frozen=True)
class Matrix:
    """What is compared.

    Attributes:
        settings: as `resolve` takes them, without the settings file.
        file: the settings file as a table, without what belongs to the matrix.
        estimators: registered names; "all" for those that ship with zoplat and that the device supports. "zero-shot",
            "icl-N" and "linear-probe" evaluate the model without training it.
        samplers, step_rules: registered names; those of the method where there are none.
        tasks: registered names or files. With several, --data is a folder of folders with their names; a task that
            ships its rows does without one.
        models: as `--model` takes them.
        tunes: as `--tune` takes them.
        seeds: of the runs.
        tune_trials: trials of each search; 0 for none.
        trial_passes: budget of a trial in forward passes; that of a run when None.
        tune_seed: seed of the trials.
        own: settings of single estimators, tasks, models and tunings, by axis and name.
        search: ranges of single estimators by name; those under "all" are for every method that has such a setting.
    """

    settings: dict[str, Any]
    file: dict[str, Any]
    estimators: tuple[str, ...]
    samplers: tuple[str, ...] = ()
    step_rules: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tunes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    tune_trials: int = 0
    trial_passes: int | None = None
    tune_seed: int = TUNE_SEED
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    search: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Matrix:
        """The matrix of flags and a settings file, in which each axis is a list, or a table of settings by name.

        Args:
            settings: as `resolve` takes them, `config` included.
            given: axes and numbers by the names of this class's attributes; None for what is not given. An axis is a
                tuple of names, or a table of settings by name, which win over those of the file.

        Raises:
            ZoplatError: something has a type that it can't have, or there is no estimator.
        """
        shared = {name: value for name, value in settings.items() if value is not None}
        source = shared.pop("config", {})
        file = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else read_toml(Path(source))
        check_named(file.pop("study", {}).get("plugins", {}), f"--config {source}")
        shared = {**file.pop(GIVEN, {}), **shared}
        values: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for axis in AXES:
            names, asked = file.pop(axis, ()), given.get(axis)
            tables = [one for one in (names, asked) if isinstance(one, Mapping)]
            own[axis] = {name: table for one in tables for name, table in one.items()}
            values[axis] = _names(axis, names if asked is None else asked)
        values |= {name: file.pop(name) for name in NUMBERS if name in file}
        values |= {name: given[name] for name in NUMBERS if given.get(name) is not None}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if isinstance(values.get("seeds"), tuple):
            values["seeds"] = tuple(dict.fromkeys(values["seeds"]))
        matrix = cls(shared, file, **values, own=own, search=file.pop("search", {}))
        matrix._check()
        return matrix

    def table(self) -> dict[str, Any]:
        """The matrix as a settings file that gives the same one again."""
        table: dict[str, Any] = {}
        for axis in AXES:
            names, own = getattr(self, axis), self.own.get(axis, {})
            if names:
                places = [whole(axis, name) for name in names]
                table[axis] = {place: own.get(n, {}) for place, n in zip(places, names, strict=True)} if own else places
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None:
                table[name] = list(value) if isinstance(value, tuple) else value
        given = {
            name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in self.settings.items()
        }
        tables = {"search": dict(self.search), GIVEN: given}
        return {**table, **self.file, **{name: part for name, part in tables.items() if part}}

    def cells(self) -> list[Cell]:
        """All cells: task by task, method by method.

        Raises:
            ZoplatError: a name that is not registered, settings that no run could have, or two of one axis whose
                folders would have the same name.
        """
        for axis, kind in (("estimators", "estimator"), ("tasks", "task")):
            for name in self.own.get(axis, {}):
                if not (protocol_of(name) or name.endswith(".toml")):
                    catalogue().entry(kind, name)
        for axis in ("tasks", "models", "tunes"):
            _check_folders(axis, getattr(self, axis))
        places = product(self.tasks or ("",), self.models or ("",), self.tunes or ("",))
        cells = [cell for place in places for cell in self._methods(*place)]
        return list({cell.key: cell for cell in cells}.values())

    def _methods(self, task: str, model: str, tune: str) -> Iterator[Cell]:
        """The cells of one place."""
        parts = {axis: getattr(self, axis) or ("",) for axis in ("samplers", "step_rules")}
        for name in self._estimators(task, model, tune):
            if protocol := protocol_of(name):
                if tune in ("", *self.tunes[:1]):
                    yield self._cell(name, task, model, "", {"tune": "full"}, protocol)
                continue
            has_law = law_of(catalogue().entry("estimator", name).value) is not None
            for sampler, rule in product(parts["samplers"] if has_law else ("",), parts["step_rules"]):
                label = "+".join(filter(None, (name, sampler, rule)))
                chosen = {"sampler": ("samplers", sampler), "step_rule": ("step_rules", rule)}
                own = {flag: self._part(axis, part) for flag, (axis, part) in chosen.items() if part}
                yield self._cell(label, task, model, tune, own, None, name)

    def _part(self, axis: str, name: str) -> str | dict[str, Any]:
        """A law or a step rule, with its own settings where the file has some."""
        own = self.own.get(axis, {}).get(name)
        return {"name": name, **own} if own else name

    def _cell(
        self,
        label: str,
        task: str,
        model: str,
        tune: str,
        chosen: Mapping[str, Any],
        protocol: EvaluationProtocol | None,
        estimator: str = "",
    ) -> Cell:
        settings = {**self._place(task, model, tune), **chosen}
        if estimator:
            settings["config"]["estimator"] = {"name": estimator, **self.own.get("estimators", {}).get(estimator, {})}
        names = (("tasks", task), ("models", model), ("tunes", tune))
        folder = Path(*(folder_name(name, axis) for axis, name in names if name and len(getattr(self, axis)) > 1))
        shown = [Path(model).name] if len(self.models) > 1 else []
        shown += [tune] if len(self.tunes) > 1 and tune else []
        asked, of_all = self.search.get(estimator, {}), self.search.get("all", {})
        suffix = "".join(f", {x}" for x in shown)
        return Cell(label, task, model, tune, settings, protocol, folder, asked, of_all, suffix)

    def _place(self, task: str, model: str, tune: str) -> dict[str, Any]:
        """The settings that all methods have on one task with one model and one tuning."""
        config = copy.deepcopy(self.file)
        for axis, name in (("tasks", task), ("models", model), ("tunes", tune)):
            config |= copy.deepcopy(dict(self.own.get(axis, {}).get(name, {})))
        own = {**copy.deepcopy(self.settings), "config": config}
        own |= {key: name for key, name in (("task", task), ("model", model), ("tune", tune)) if name}
        data = own.get("data") or config.get("data")
        if task and data and len(self.tasks) > 1:
            config.pop("data", None)
            own["data"] = _folder(Path(data), task)
        return own

    def _estimators(self, task: str, model: str, tune: str) -> list[str]:
        names: list[str] = []
        for name in self.estimators:
            names += zoplat_estimators(self._place(task, model, tune)) if name == "all" else [name]
        return list(dict.fromkeys(names))

    def _check(self) -> None:
        if not self.estimators:
            raise ZoplatError("Give run directories, or --estimators NAME,… (or all) to make the runs first.")
        if not isinstance(self.seeds, tuple) or not self.seeds or not all(type(seed) is int for seed in self.seeds):
            raise ZoplatError(f"seeds must be a list of whole numbers, got {self.seeds!r}  (--seeds)")
        for name, flag in (("tune_trials", "--tune-trials"), ("tune_seed", "--tune-seed")):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ZoplatError(f"{name} must be a whole number of 0 or more, got {value!r}  ({flag})")
        if self.tune_trials and self.tune_seed in self.seeds:
            raise ZoplatError(
                f"Seed {self.tune_seed} is that of the trials, whose scores choose the settings; give the runs others, "
                "or the trials another --tune-seed."
            )
        passes = self.trial_passes
        if passes is not None and (type(passes) is not int or passes < 1):
            raise ZoplatError(f"trial_passes must be a whole number above 0, got {passes!r}  (--trial-passes)")
        tables = self.search.values() if isinstance(self.search, Mapping) else [self.search]
        if not all(isinstance(own, Mapping) for own in tables):
            raise ZoplatError(f"[search] must have a table for each method: [search.mezo], …; got {self.search!r}.")


AXES = ("estimators", "samplers", "step_rules", "tasks", "models", "tunes")
NUMBERS = ("seeds", "tune_trials", "trial_passes", "tune_seed")
KEYS = tuple(entry.name for entry in fields(Matrix) if entry.name in (*AXES, *NUMBERS))
"""What of a matrix flags and files may give."""


def _folder(data: Path, task: str) -> Path | None:
    """The folder of one of several tasks; None where there is none and the task ships its rows."""
    own = data / Path(task).stem
    return own if own.exists() or find(task).packaged is None else None


def protocol_of(name: str) -> EvaluationProtocol | None:
    """The protocol that evaluates a model without training it under this name; None for any other name."""
    if name == "zero-shot":
        return EvaluationProtocol()
    if name == "linear-probe":
        return EvaluationProtocol(linear_probe=True)
    shots = re.fullmatch(r"icl-([0-9]+)", name)
    return EvaluationProtocol(int(shots.group(1))) if shots else None


def zoplat_estimators(settings: dict[str, Any]) -> list[str]:
    """The estimators that ship with zoplat and that the device of these settings supports."""
    device = resolve(copy.deepcopy(settings)).device
    own = [entry for entry in catalogue() if entry.kind == "estimator" and entry.distribution == "zoplat"]
    return sorted(entry.name for entry in own if entry.value.asks <= device.answers)


def folder_name(name: str, axis: str) -> str:
    """The folder of a task, a model or a tuning.

    >>> folder_name("data/own.toml", "tasks"), folder_name("facebook/opt-125m", "models")
    ('own', 'facebook_opt-125m')
    """
    if axis == "tasks":
        return Path(name).stem
    short = Path(name).name if axis == "models" and os.path.isdir(name) else name
    return re.sub(r"[^A-Za-z0-9.-]+", "_", short).strip("_.") or "other"


def whole(axis: str, name: str) -> str:
    """The name of a task's file or a model's folder with its whole path, so that it is found from any folder."""
    is_place = (axis == "tasks" and name.endswith(".toml")) or (axis == "models" and os.path.isdir(name))
    return os.path.abspath(name) if is_place else name


def _check_folders(axis: str, names: Sequence[str]) -> None:
    by_folder: dict[str, str] = {}
    for name in names:
        other = by_folder.setdefault(folder_name(name, axis), name)
        if other != name:
            raise ZoplatError(f"{axis}: the runs of '{other}' and '{name}' would have the same folder; rename one.")


def _names(axis: str, names: Any) -> tuple[str, ...]:
    is_table = isinstance(names, Mapping) and all(isinstance(own, Mapping) for own in names.values())
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names)
    if not (is_table or is_list):
        raise ZoplatError(f"{axis} must be a list of names, or a table of settings by name; got {names!r}")
    return tuple(dict.fromkeys(names))
