"""`make bench-gpu` on models of a few kilobytes and a processor: every part runs, is written down, and is shown."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from bench import gpu, gpu_parts
from bench.cases import Setup
from bench.deadline import Deadline
from bench.gpu_cases import BARS, MODELS, PARTS, SHAPE, pairs
from bench.gpu_figures import Figures
from bench.page import Page
from bench.results import Row, merge, read
from bench.timing import OutOfTime, summary
from zoplat.registry import catalogue

QUICK = ["--tiny", "--device", "cpu", "--rounds", "1", "--seconds", "0"]
RUN = {"command": "c", "date": "d", "processor": "p", "threads": 2, "accelerator": None, "versions": {}}


def in_this_process(out: Path, *parts: str, more: list[str] = QUICK) -> dict[str, Row]:
    """Run parts as the program does, but here; their own rows, by name."""
    given = [*more, f"--until={time.time() + 480}", "--out", str(out), "--part", *parts]
    with pytest.raises(SystemExit) as ended:
        gpu.main(given)
    assert ended.value.code == 0
    return {row["step"]: row for row in read(out)["rows"] if row["kind"] == "part"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_part_that_needs_no_other_process_is_measured_and_shown(tmp_path: Path) -> None:
    out, some = tmp_path / "gpu.json", "in-place/mezo|hizoo|lozo|lora/bfloat16/lora"
    names = ("passes", "steps of opt-1.3b", "peaks of published steps", "ten runs")
    parts = in_this_process(out, *names, more=[*QUICK, "--only", some])
    assert [(row["state"], row["left"], row["failed"]) for row in parts.values()] == [("done", [], {})] * 4
    rows = read(out)["rows"]
    assert {row["dtype"] for row in rows if row["kind"] == "pass"} == {"bfloat16", "float32"}
    assert [len(row["peaks"]) for row in rows if row["kind"] == "runs"] == [3]
    steps_are_whole([row for row in rows if row["kind"] == "step"], some)
    shown_under_the_name_of(out, "opt-1.3b")


def steps_are_whole(steps: list[Row], only: str) -> None:
    """Every step of every pair whose label matches has a row, those of zoplat with peaks and moves."""
    chosen = [pair for pair in pairs("tiny", "cpu") if re.search(only, pair.label((2, 8)))]
    every = [(pair.key, variant.name) for pair in chosen for variant in pair.variants]
    assert [(f"{row['setup']}/{row['pair']}", row["step"]) for row in steps] == every
    assert all(row["bare"] in ("as set", "eager") and row["wall"]["median"] > 0 for row in steps)
    ours = [row for row in steps if not re.match("published|inference", row["step"])]
    assert all(row["peak"] >= row["weights"] and row["moves"] >= 0 for row in ours)
    assert all("peak" not in row for row in steps if row not in ours)


def shown_under_the_name_of(out: Path, model: str) -> None:
    """The page has a line for each step, and figures of all kinds that these parts measure."""
    text = out.read_text(encoding="utf-8").replace('"tiny', f'"{model}').replace("[2, 8]", json.dumps(SHAPE))
    out.write_text(text.replace('in-place"', 'in-place/record"'), encoding="utf-8")
    page = Page(out.parent)
    for row in read(out)["rows"]:
        if row["kind"] == "step":
            assert f"| {row['step']} | {row['passes']} | 1 | {row['wall']['median']:.2f}" in page.places["gpu"]
    figures = Figures(read(out)["rows"])
    measured = [bar for bar in BARS if figures.figure(bar)]
    assert {bar.kind for bar in measured} == {"step", "gain", "traffic", "pass", "peak", "held", "runs"}
    assert {f"{figures.what(bar)}, on a GPU" for bar in measured} == {figure.what for figure in page.figures}
    assert page.places["gpu"].count("| not measured |") == len(BARS) - len(measured)


@pytest.mark.slow
def test_the_whole_command_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "bench/gpu.py", *QUICK, "--out", str(out)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=gpu_parts.ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = read(out)
    parts = [row for row in content["rows"] if row["kind"] == "part"]
    assert [(row["step"], row["state"]) for row in parts] == [(name, "done") for name in PARTS]
    kinds = {row["kind"] for row in content["rows"]}
    assert kinds == {"part", "tests", "pass", "step", "bare peak", "job", "runs"}
    steps_are_whole([row for row in content["rows"] if row["kind"] == "step"], "")
    [run] = content["runs"]
    assert run["command"] == "python bench/gpu.py --rounds 1 --seconds 0.0 --device cpu --tiny"
    assert {"torch", "transformers", "python"} <= {*run["versions"]}


def test_a_part_that_fails_is_named_with_its_reason_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: Any) -> Any:
        yield context.run, [{"kind": "pass", "dtype": "float32", "step": "first", "ns": 1.0, "wall": summary([1.0])}]
        raise ValueError("no such kernel. More about it")

    monkeypatch.setitem(gpu_parts.WORKS, "passes", broken)
    monkeypatch.setattr(gpu_parts, "PACKAGE", "no_such_package")
    out = tmp_path / "gpu.json"
    more = [word for word in QUICK if word != "--tiny"]
    parts = in_this_process(out, "passes", "main job", more=more)
    assert parts["passes"]["state"] == "failed: ValueError: no such kernel"
    assert parts["main job"]["state"].startswith("skipped: no_such_package is not installed")
    assert [row["step"] for row in read(out)["rows"] if row["kind"] == "pass"] == ["first"]
    table = Page(tmp_path).places["gpu"]
    assert "- passes, 0 s: failed: ValueError: no such kernel\n" in table


def test_a_pair_that_fails_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, tasks: Any, command: str) -> Any:
        for pair, shape in tasks:
            if pair.name == "lozo":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            yield RUN, [{"kind": "pass", "step": f"{pair.name}, {shape}", "ns": 1.0}]

    monkeypatch.setattr(gpu_parts.Bench, "run", failing)
    out = tmp_path / "gpu.json"
    parts = in_this_process(out, "steps of opt-1.3b", more=[*QUICK, "--only", "exact/"])
    label = "step/tiny/full/bfloat16/exact/lozo/2x8"
    assert parts["steps of opt-1.3b"]["failed"] == {label: "OutOfMemoryError: CUDA out of memory"}
    assert [row["step"] for row in read(out)["rows"] if row["kind"] == "pass"] == ["mezo, (2, 8)", "fzoo, (2, 8)"]


def test_what_time_runs_out_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(self: Any, tasks: Any, command: str) -> Any:
        time.sleep(60)
        yield

    monkeypatch.setattr(gpu_parts.Bench, "run", slow)
    monkeypatch.setattr(gpu, "LEAST", 0.01)
    monkeypatch.setattr(gpu, "limit", lambda *_: 0.3)
    out = tmp_path / "gpu.json"
    parts = in_this_process(out, "steps of opt-13b", more=[*QUICK, "--only", "lozo|fzoo"])
    row = parts["steps of opt-13b"]
    assert row["state"] == "out of time"
    assert row["left"] == [f"step/tiny/full/bfloat16/exact/{name}/2x8" for name in ("lozo", "fzoo")]
    assert row["seconds"] < 30
    assert "exact/fzoo/2x8 was not reached" in Page(tmp_path).places["gpu"]


def test_a_process_that_dies_leaves_its_part_as_failed_and_another_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "gpu.json", []

    def died(command: list[str], check: bool) -> Any:
        left = command[command.index("--left") + 1 :]
        calls.append(left)
        until = float(next(word for word in command if word.startswith("--until=")).partition("=")[2])
        state = "begun" if len(calls) == 1 else "done"
        merge(out, RUN, [{"kind": "part", "step": left[0], "until": until, "state": state}])
        return subprocess.CompletedProcess(command, -11)

    monkeypatch.setattr(gpu.subprocess, "run", died)
    gpu.main(["--out", str(out), "--part", "passes", "ten runs"])
    assert calls == [["passes", "ten runs"], ["ten runs"]]
    states = {row["step"]: row["state"] for row in read(out)["rows"]}
    assert states == {"passes": "failed: its process ended with status -11", "ten runs": "done"}


def test_a_part_has_the_time_that_those_after_it_are_not_expected_to_need() -> None:
    tests, passes, *_ = PARTS.values()
    others = sum(PARTS.values()) - tests
    assert gpu.limit([*PARTS], 480, 1.0) == pytest.approx(480 - others)
    assert gpu.limit([*PARTS], others, 1.0) == tests, "what it needs itself, though others then lack it"
    assert gpu.limit([*PARTS], 20, 1.0) == 20
    assert gpu.limit(["passes"], 240, 0.5) == 240
    assert gpu.limit(["passes", "ten runs"], 12.5, 0.5) == passes / 2
    assert sum(PARTS.values()) < 60 * gpu.TOTAL


def test_a_deadline_ends_its_body_and_nothing_else() -> None:
    with Deadline(0.05) as deadline:
        try:
            time.sleep(10)
        except Exception as problem:
            pytest.fail(f"whatever recovers from errors must not recover from this: {problem!r}")
    assert deadline.is_over
    with pytest.raises(ValueError, match="mine"), Deadline(10):
        raise ValueError("mine")
    assert issubclass(OutOfTime, BaseException)


def test_the_output_of_pytest_is_counted() -> None:
    output = """
tests/a/test_x.py::test_one[gpu-bfloat16] PASSED                    [ 10%]
tests/a/test_x.py::test_a_run_on_a_gpu_is_replayed_on_the_processor_to_the_same_bits[float32] FAILED [ 20%]
tests/a/test_x.py::test_two SKIPPED (no GPU here)                   [ 30%]
tests/a/test_x.py::test_three ERROR                                 [ 40%]
=========================== short test summary info ============================
FAILED tests/a/test_x.py::test_a_run_on_a_gpu_is_replayed_on_the_processor_to_the_same_bits[float32] - assert 1 == 2
ERROR tests/a/test_x.py::test_three - RuntimeError: no
"""
    row = gpu_parts.outcomes(output)
    assert (row["passed"], row["failed"], row["skipped"], row["replays"], row["replays_failed"]) == (1, 2, 1, 1, 1)
    assert [*row["failures"].values()] == ["assert 1 == 2", "RuntimeError: no"]
    found = Figures([{"kind": "tests", "is_whole": True, **row}])
    assert (found.failing(), found.replays()) == (2, 1)
    cut_off = {"kind": "tests", "is_whole": False, "passed": 9, "failed": 0, "replays": 0}
    assert Figures([cut_off]).failing() is None, "those that were not run may fail"


@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_takes_every_setup_and_every_bar_is_for_a_measured_case(model: str) -> None:
    settings = catalogue().entry("device", "cuda").value
    for setup in {pair.setup.name: pair.setup for pair in pairs(model)}.values():
        assert isinstance(setup, Setup)
        replace(settings, **setup.device).check_forward()
    measured = {(pair.setup.name, variant.name) for pair in pairs(model) for variant in pair.variants}
    figures = Figures([])
    for bar in BARS:
        if bar.kind in ("step", "gain") and model in bar.case:
            assert (setup_name(*bar.case[:2]), bar.case[2]) in measured
        assert figures.figure(bar) is None
    assert len({pair.key for pair in pairs(model)}) == len(pairs(model))


def setup_name(model: str, word: str) -> str:
    """The name of the setup that a bar has a word for."""
    from bench.gpu_cases import setups

    return setups(model)[word].name


def test_traffic_is_counted_at_the_speed_of_add() -> None:
    """A step of 3 moves and 16 bytes of state, of weights that add_ reads and writes in 2 ms."""
    step: Row = {"kind": "step", "setup": "opt-1.3b/full/bfloat16/in-place/record", "step": "zo-adam"}
    step |= {"passes": 2, "bare_ms": 10.0, "wall": {"median": 1.7}, "moves": 3.0, "weights": 2_000_000}
    add = {"kind": "pass", "dtype": "bfloat16", "step": "add_", "ns": 2.0}
    assert Figures([step, add]).traffic("opt-1.3b", "zo-adam", 16) == pytest.approx(14 / (2 * (3 + 16 / 4)))
