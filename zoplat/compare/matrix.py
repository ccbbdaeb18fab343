"""A matrix of runs: every method with every seed on every task, under the same settings."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zoplat.compare.planned import FailedRun, PlannedRun
from zoplat.compare.terms import FinishedRun
from zoplat.config.layers import read_toml, resolve
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.registry import catalogue
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary


def matrix(
    settings: dict[str, Any],
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    say: Callable[[str], None],
    jobs: int = 1,
    tasks: Sequence[str] = (),
) -> tuple[list[FinishedRun], list[FailedRun]]:
    """Run every method with every seed on every task under the same settings; finished runs are not repeated.

    Args:
        settings: as `config.layers.resolve` takes them, without estimator and seed; the settings file may have tables
            `estimators` and `tasks` with settings of single methods and tasks, by name.
        methods: registered estimators; "all" for all that ship with zoplat. "zero-shot", "icl-N" and "linear-probe"
            evaluate the model without training it, and only once where the result does not depend on the seed.
        seeds: of the runs.
        out: folder of the run directories: METHOD-SEED, in a folder for each task where there are several.
        say: called with a line of progress when a run begins and when one fails.
        jobs: runs at a time; seconds of concurrent runs are comparable with each other only.
        tasks: registered names or files; the task of the settings when empty. With several, --data is a folder of
            folders with their names.

    Returns:
        The runs that ended, and those that failed.

    Raises:
        ZoplatError: settings that no run could have, or a run in `out` that was begun with other settings.
    """
    runs = plan(settings, methods, seeds, out, tasks)
    for run in runs:
        if (run.directory / "config.toml").exists():
            RunDirectory(run.directory).check_unchanged(run.config)

    def result_of(run: PlannedRun) -> Summary | FailedRun:
        result: Summary | FailedRun | None = RunDirectory(run.directory).read_summary()
        if not result:
            say(str(run))
            result = run.execute()
        if isinstance(result, FailedRun):
            say(f"{run}: {result.reason}")
        return result

    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(result_of, runs))
    ended = [
        FinishedRun.of(result, RunDirectory(run.directory))
        for run, result in zip(runs, results, strict=True)
        if not isinstance(result, FailedRun)
    ]
    return ended, [result for result in results if isinstance(result, FailedRun)]


def plan(
    settings: dict[str, Any], methods: Sequence[str], seeds: Sequence[int], out: Path, tasks: Sequence[str]
) -> list[PlannedRun]:
    """The runs of a matrix, seed by seed and task by task; arguments and errors as for `matrix`."""
    shared, by_method, by_task = _split(settings)
    names = [n for name in methods for n in (zoplat_estimators(shared) if name == "all" else [name])]
    for name in by_method:
        catalogue().entry("estimator", name)
    runs = []
    for seed in seeds:
        for task in tasks or [""]:
            for name in dict.fromkeys(names):
                protocol = protocol_of(name)
                own = {**shared, "seed": seed, "config": {**shared["config"], **by_task.get(task, {})}}
                if task:
                    own |= {"task": task}
                    if own.get("data") and len(tasks) > 1:
                        own["data"] = Path(own["data"]) / Path(task).stem
                if protocol is None:
                    own["config"]["estimator"] = {"name": name, **by_method.get(name, {})}
                elif seed != seeds[0] and not protocol.shots:
                    continue  # the result does not depend on the seed
                else:
                    own["tune"] = "full"
                folder = out / Path(task).stem if task and len(tasks) > 1 else out
                runs.append(PlannedRun(resolve(copy.deepcopy(own)), protocol, folder / f"{name}-{seed}"))
    return runs


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


def _split(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings with their file as a table, and the tables of single methods and tasks that were in it."""
    source = settings.get("config") or {}
    table = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    by_method, by_task = table.pop("estimators", {}), table.pop("tasks", {})
    return {**settings, "config": table}, by_method, by_task
