"""A matrix of runs, each in a process of its own, and one table of what they came to."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from zoplat.compare.published import Published
from zoplat.config.layers import read_toml, resolve
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.paths import replace_text
from zoplat.registry import catalogue
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Peak, Summary

MIB = 1 << 20
FORMS: dict[str, Callable[[float], str]] = {
    "dev": lambda x: f"{100 * x:.1f}",
    "forward_passes": lambda x: f"{x:,.0f}",
    "steps": lambda x: f"{x:,.0f}",
    "seconds_training": lambda x: f"{x:.0f}",
    "peak": lambda x: f"{x / MIB:,.0f}",
    "above_inference": lambda x: f"{x / MIB:,.0f}",
}
COLUMNS = {
    "estimator": "method",
    "score": "test score",
    "dev": "dev score",
    "forward_passes": "passes",
    "steps": "steps",
    "seconds_training": "seconds",
    "peak": "peak MiB",
    "above_inference": "above inference, MiB",
    "runs": "runs",
}


@dataclass(frozen=True)
class Wanted:
    """One run of a comparison.

    Attributes:
        config: its settings.
        way: how the model is asked without training it; None for a training run.
        place: its folder.
    """

    config: RunConfig
    way: EvaluationProtocol | None
    place: Path

    @property
    def method(self) -> str:
        """What the table calls it."""
        return self.way.name if self.way else self.config.estimator_name

    def __str__(self) -> str:
        return f"{self.method}, {self.config.task}, seed {self.config.seed}"


@dataclass(frozen=True)
class Failed:
    """A run that did not come to its end.

    Attributes:
        estimator, task, seed: which one.
        reason: its last words.
    """

    estimator: str
    task: str
    seed: int
    reason: str


def matrix(
    settings: dict[str, Any],
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    say: Callable[[str], None],
    jobs: int = 1,
    tasks: Sequence[str] = (),
) -> tuple[list[Summary], list[Failed]]:
    """Run every method with every seed on every task under the same settings; those that are done stay.

    Args:
        settings: as `settings.resolve` takes them, without estimator and seed; the settings file may have tables
            `estimators` and `tasks` with settings of single methods and tasks, by name.
        methods: registered estimators; "all" among them stands for all that ship with zoplat. "zero-shot",
            "icl-N" and "linear-probe" ask the model without training it, once for all seeds that don't matter.
        seeds: of the runs.
        out: folder of the run directories: METHOD-SEED, in a folder for each task where there are several.
        say: is told when each run begins and when one fails.
        jobs: runs at a time; seconds of runs side by side are comparable with each other only.
        tasks: registered names or files; the one of the settings when empty. With several, --data is a folder of
            folders with their names.

    Returns:
        Summaries of the runs that ended, and those that did not.

    Raises:
        ZoplatError: settings that no run could have, or a run there that was begun with others.
    """
    wanted = _wanted(settings, methods, seeds, out, tasks)
    for one in wanted:
        if (one.place / "config.toml").exists():
            RunDirectory(one.place).check_unchanged(one.config)

    def make(one: Wanted) -> Summary | Failed:
        done: Summary | Failed | None = RunDirectory(one.place).read_summary()
        if not done:
            say(str(one))
            done = _run(one)
        if isinstance(done, Failed):
            say(f"{one}: {done.reason}")
        return done

    with ThreadPoolExecutor(jobs) as pool:
        told = list(pool.map(make, wanted))
    return [r for r in told if not isinstance(r, Failed)], [r for r in told if isinstance(r, Failed)]


def _wanted(
    settings: dict[str, Any], methods: Sequence[str], seeds: Sequence[int], out: Path, tasks: Sequence[str]
) -> list[Wanted]:
    shared, each, on = _split(settings)
    chosen = list(dict.fromkeys(n for name in methods for n in (everyone(shared) if name == "all" else [name])))
    for name in each:
        catalogue().entry("estimator", name)
    found = []
    for seed in seeds:
        for task in tasks or [""]:
            for name in chosen:
                way = way_of(name)
                given = {**shared, "seed": seed, "config": {**shared["config"], **on.get(task, {})}}
                if task:
                    given |= {"task": task}
                    if given.get("data") and len(tasks) > 1:
                        given["data"] = Path(given["data"]) / Path(task).stem
                if way is None:
                    given["config"]["estimator"] = {"name": name, **each.get(name, {})}
                elif seed != seeds[0] and not way.shots:
                    continue
                else:
                    given["tune"] = "full"
                place = out / Path(task).stem if task and len(tasks) > 1 else out
                found.append(Wanted(resolve(copy.deepcopy(given)), way, place / f"{name}-{seed}"))
    return found


def way_of(name: str) -> EvaluationProtocol | None:
    """The way to ask a model that a name stands for; None for any other name."""
    if name == "zero-shot":
        return EvaluationProtocol()
    if name == "linear-probe":
        return EvaluationProtocol(probe=True)
    shots = re.fullmatch(r"icl-([0-9]+)", name)
    return EvaluationProtocol(int(shots.group(1))) if shots else None


def _split(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings with their file as a table, and the settings of single methods and tasks that were in it."""
    source = settings.get("config") or {}
    table = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    each, on = table.pop("estimators", {}), table.pop("tasks", {})
    return {**settings, "config": table}, each, on


def everyone(settings: dict[str, Any]) -> list[str]:
    """The estimators of zoplat's own that the device of these settings can answer."""
    device = resolve(copy.deepcopy(settings)).device
    own = [entry for entry in catalogue() if entry.kind == "estimator" and entry.distribution == "zoplat"]
    return sorted(entry.name for entry in own if entry.value.asks <= device.answers)


def table(summaries: Iterable[Summary]) -> list[dict[str, Any]]:
    """One row a method and task, task by task, best test score first.

    Scores are means over runs, `score_sd` their standard deviation.
    """
    groups: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.estimator, summary.task), []).append(summary)
    tasks = list(dict.fromkeys(task for _, task in groups))
    rows = (_row(*name, group) for name, group in groups.items())
    return sorted(rows, key=lambda row: (tasks.index(row["task"]), -row["score"]))


def markdown(rows: Sequence[dict[str, Any]], published: Published | None = None) -> str:
    """The table as Markdown: one row a method with its costs, or, of several tasks, a score for each.

    Args:
        rows: of `table`.
        published: scores of a model that stand beside those of several tasks.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(tasks) > 1:
        return _grid(rows, tasks, published)
    return _lines(list(COLUMNS.values()), [cells(row) for row in rows])


def _grid(rows: Sequence[dict[str, Any]], tasks: Sequence[str], published: Published | None) -> str:
    """Methods against tasks, in the order of their mean; published scores in a column beside ours."""
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["estimator"], {})[row["task"]] = row
    head, body = ["method"], []
    for task in tasks:
        head += [Path(task).stem] + ([published.model] if published else [])
    for method, own in sorted(by_method.items(), key=lambda item: -mean(row["score"] for row in item[1].values())):
        line = [method]
        for task in tasks:
            line.append(cells(own[task])[1] if task in own else "–")
            if published:
                known = published.score(method, task)
                line.append("–" if known is None else f"{known:.1f}")
        body.append(line)
    body = [[*line, str(max(row["runs"] for row in by_method[line[0]].values()))] for line in body]
    told = ["", *(f"- {published.model}, {line}" for line in published.sources(by_method))] if published else []
    return _lines([*head, "runs"], body) + "".join(f"{line}\n" for line in told)


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in body)]) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """The row as text, in the order of `COLUMNS`."""
    spread = f" ± {100 * row['score_sd']:.1f}" if row["score_sd"] is not None else ""
    shown = {**row, "score": f"{100 * row['score']:.1f}{spread}"}
    for name, form in FORMS.items():
        shown[name] = "–" if row[name] is None else form(row[name])
    return [str(shown[name]) for name in COLUMNS]


def write(
    out: Path, rows: Sequence[dict[str, Any]], failed: Sequence[Failed], published: Published | None = None
) -> None:
    """comparison.md and comparison.json in `out`."""
    told = {"rows": list(rows), "failed": [vars(run) for run in failed]}
    replace_text(out / "comparison.json", json.dumps(told, indent=1) + "\n")
    replace_text(out / "comparison.md", markdown(rows, published))


def _row(name: str, task: str, group: Sequence[Summary]) -> dict[str, Any]:
    scores = [summary.test_after for summary in group]
    row = {
        "estimator": name,
        "task": task,
        "score": mean(scores),
        "score_sd": stdev(scores) if len(scores) > 1 else None,
        "before": _mean(group, "test_before"),
        "dev": _mean(group, "dev_after"),
        "peak": None,
        "above_inference": None,
        "runs": len(group),
    }
    if group[0].step_peak_bytes:
        where = "device" if group[0].step_peak_bytes.device else "host"
        steps, forwards = ([getattr(p, where) for p in peaks] for peaks in zip(*map(_peaks, group), strict=True))
        row["peak"] = max(steps)
        row["above_inference"] = mean(step - forward for step, forward in zip(steps, forwards, strict=True))
    plain = ("forward_passes", "steps", "seconds_training", "skipped_steps")
    return {**row, **{key: _mean(group, key) for key in plain}}


def _peaks(summary: Summary) -> tuple[Peak, Peak]:
    return summary.step_peak_bytes, summary.forward_peak_bytes


def _mean(group: Sequence[Summary], name: str) -> float | None:
    """Mean of a field; None where the model was evaluated without training and has no such number."""
    return None if getattr(group[0], name) is None else mean(getattr(summary, name) for summary in group)


def _run(one: Wanted) -> Summary | Failed:
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(one.config.toml())
        file.flush()
        if one.way:
            asked = [f"--shots={one.way.shots}", *(["--probe"] if one.way.probe else [])]
            told = _called("eval", "--config", file.name, *asked)
        else:
            told = _called("run", "--config", file.name, "--out", str(one.place), "--resume", "--quiet")
    if isinstance(told, str):
        return Failed(one.method, one.config.task, one.config.seed, told)
    return _kept(one, told) if one.way else Summary.from_json(told)


def _kept(one: Wanted, told: dict[str, Any]) -> Summary:
    """What was asked without training, written down as the summary of a run."""
    summary = {**told, "estimator": one.method, "test_after": told["score"], "steps": 0, "forward_passes": 0}
    one.place.mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(one.place)
    replace_text(directory.config, one.config.toml())
    directory.write_summary(summary)
    return Summary.from_json(summary)


def _called(command: str, *arguments: str) -> dict[str, Any] | str:
    """What a command says as JSON, or its last words."""
    words = [sys.executable, "-m", "zoplat", command, *arguments, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        last: str = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return last
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def existing(paths: Iterable[Path]) -> list[Summary]:
    """Summaries of runs that are there.

    Raises:
        ZoplatError: one of them is no run directory, or not finished.
    """
    summaries = []
    for path in paths:
        summary = RunDirectory.existing(path).read_summary()
        if summary is None or summary.status != "done":
            raise ZoplatError(f"{path} is not finished; `zoplat run --resume --out {path}` goes on with it.")
        summaries.append(summary)
    return summaries
