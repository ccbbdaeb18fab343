"""What a new user reads: help, lists, how long it will take, and how to go on."""

import ast
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import click.testing
import pytest

import zoplat
from zoplat.calls.progress import Pace, duration
from zoplat.cli import main
from zoplat.cli.listing import MEASURED
from zoplat.cli.show import cost
from zoplat.config.layers import resolve
from zoplat.registry import catalogue
from zoplat.training.progress import Progress

RUN = ("run", "--estimator", "lozo", "--device", "reference", "--limit", "16", "--batch-size", "4")


def output_of(*arguments: str) -> str:
    done = click.testing.CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_examples_of_the_help_are_lines_of_their_own() -> None:
    text = output_of("--help")
    assert "\b" not in text
    assert "\\b" not in text
    examples = [line.strip().split("   ")[0] for line in text.splitlines() if line.startswith("    zoplat ")]
    assert examples == ["zoplat run --estimator lozo", "zoplat list estimators", "zoplat show lozo"]


def test_the_help_names_every_command_on_a_line_and_imports_none() -> None:
    asked = "import sys; from zoplat.cli import main; main(['--help'], standalone_mode=False)"
    asked += "; print(*sorted(name for name in sys.modules if name.startswith('zoplat.')))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    *lines, modules = done.stdout.splitlines()
    assert modules.split() == ["zoplat.cli", "zoplat.core", "zoplat.core.errors"]
    context = click.Context(main)
    for name in main.list_commands(context):
        assert any(line.startswith(f"  {name} ") for line in lines), name
        command = main.get_command(context, name)
        assert command
        assert command.name == name
        assert command.help


def test_every_public_name_is_imported_from_where_type_checkers_read_it() -> None:
    places = {
        alias.name: str(node.module)
        for node in ast.walk(ast.parse(Path(zoplat.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name in {*zoplat.__all__} - {"run"}:
        __import__(places[name])
        assert getattr(zoplat, name) is getattr(sys.modules[places[name]], name), name


@pytest.mark.parametrize("command", ["run", "compare", "eval", "profile", "pack"])
def test_flags_are_in_titled_sections_each_once(command: str) -> None:
    text = output_of(command, "--help")
    titles = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert {"Model", "Task and rows", "Any setting", "Options"} <= {*titles}
    assert titles[-1] == "Options"
    found = main.get_command(click.Context(main), command)
    assert found
    for option in found.params:
        if isinstance(option, click.Option):
            lines = re.findall(rf"^  (?:-\w, )?{option.opts[-1]}(?![\w-])", text, re.MULTILINE)
            assert len(lines) == 1 or option.opts == ["-o"], option.opts
    sizes = [len(re.findall(r"^  -", section, re.MULTILINE)) for section in re.split(r"^\w[\w ]*:$", text, flags=re.M)]
    assert max(sizes) <= 10


def test_a_list_shows_costs_and_tells_variants_of_a_method_apart() -> None:
    rows = {row["name"]: row for row in json.loads(output_of("list", "estimators", "--json"))}
    assert rows["fzoo-r"]["summary"] == f"{rows['fzoo']['summary']}; fzoo with reuse=True"
    assert len({row["summary"] for row in rows.values()}) == len(rows)
    assert rows["mezo"]["cost"] == cost(catalogue().entry("estimator", "mezo"))
    lines = {line.split()[0]: line.split()[1:4] for line in output_of("list", "estimators").splitlines()[1:]}
    assert (lines["mezo"], lines["hizoo"]) == (["2", "2", "0"], ["3", "3", "4"])
    assert lines["block-zo"][0] == "varies"
    assert output_of("list", "estimators").splitlines()[0].split() == ["passes", "over", "θ", "bytes", "a", "weight"]
    rules = {line.split()[0]: line.split()[1:4] for line in output_of("list", "step-rules").splitlines()[1:]}
    assert (rules["constant"], rules["adam"]) == (["0", "0", "0"], ["0", "1", "8"])


def test_costs_that_ship_are_those_of_all_parts_and_a_list_measures_none_of_them(monkeypatch: Any) -> None:
    shipped = json.loads(MEASURED.read_text(encoding="utf-8"))
    for kind, found in shipped.items():
        own = [entry.name for entry in catalogue() if (entry.kind, entry.distribution) == (kind, "zoplat")]
        assert sorted(own) == sorted(found)
    foreign = [e.name for e in catalogue() if e.distribution != "zoplat" and e.kind in shipped]
    measured: list[str] = []
    monkeypatch.setattr("zoplat.cli.show.cost", lambda entry: measured.append(entry.name))
    output_of("list", "estimators")
    output_of("list", "step-rules")
    assert sorted(measured) == sorted(foreign)


def pace_of(seconds: list[float], **settings: Any) -> list[str]:
    """What is said after steps that take so long."""
    config = resolve({"device": "reference", "estimator": "mezo", **settings})
    pace, progress, said = Pace(), Progress(), []
    pace.scored({"split": "dev", "seconds": 4.0, "kept": False})
    for step in seconds:
        progress.step, progress.passes, progress.seconds = (
            progress.step + 1,
            progress.passes + 2,
            progress.seconds + step,
        )
        said.append(pace.after(progress, config))
    return said


def test_a_run_says_after_its_second_step_how_long_it_takes_here() -> None:
    assert pace_of([9, 2, 2, 2], steps=302, evaluate_every=100) == [
        "",
        "a step takes 2 s here: about 10 min of training and 16 s of scoring ahead",
        "",
        "",
    ]
    assert "about 10 min of training" in pace_of([9, 2], max_passes=604, evaluate_every=100)[1]
    assert "about 49 s of training" in pace_of([9, 2], max_seconds=60, evaluate_every=100)[1].replace("50 s", "49 s")
    assert pace_of([1, 1], steps=2) == ["", ""]
    assert "a step takes" in output_of(*RUN, "--steps", "3", "--out", "run")


def test_durations_are_said_in_the_unit_that_people_use() -> None:
    assert [duration(seconds) for seconds in (0.2, 12.3, 500, 9000)] == ["0 s", "12 s", "8 min", "2.5 h"]


def test_the_summary_sets_the_peak_beside_that_of_inference_in_plain_words() -> None:
    text = output_of(*RUN, "--steps", "2", "--out", "run")
    line = r"^peak host memory [\d,]+ MiB, \d\.\d\d × the [\d,]+ MiB that opening the model and inference alone need$"
    assert re.search(line, text, re.MULTILINE)


@pytest.mark.parametrize("out", [pytest.param(None, marks=pytest.mark.slow), "a folder/run"])
def test_after_an_interrupt_the_message_has_the_command_that_goes_on(out: str | None, tmp_path: Path) -> None:
    place = ["--out", out] if out else []
    command = [sys.executable, "-m", "zoplat", *RUN, "--max-seconds", "60", "--evaluate-every", "5", *place]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = Path(out or "runs/sentiment-lozo-0", "journal.jsonl")
    while process.poll() is None and not (journal.exists() and len(journal.read_bytes().splitlines()) > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, problem = process.communicate()
    assert process.returncode == 130, problem
    found = re.search(r"Interrupted; what was done is saved\. Go on with: (zoplat run .*)$", problem, re.MULTILINE)
    assert found, problem
    words = shlex.split(found[1])
    assert words == ["zoplat", "run", "--resume", "--out", str(journal.parent)]
    listed = json.loads(output_of("list", "runs", "--in", str(journal.parent.parent), "--json"))
    assert listed[0]["summary"].endswith(found[1])


def test_an_interrupt_of_a_command_that_keeps_nothing_promises_nothing(monkeypatch: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoplat.cli.listing.catalogue", interrupted)
    done = click.testing.CliRunner().invoke(main, ["list", "samplers"])
    assert (done.exit_code, done.stderr) == (130, "Interrupted.\n")


def test_the_help_is_quick() -> None:
    """It imports click, and of zoplat what has the words; a tenth of a second on an idle machine."""
    command = [sys.executable, "-X", "importtime", "-m", "zoplat", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    packages = Counter(line.rsplit("|", 1)[1].strip().split(".")[0] for line in printed.splitlines()[1:])
    assert packages["click"] > 5
    assert packages["zoplat"] < 10
    assert not packages.keys() & {"numpy", "torch", "transformers", "rich", "pluggy", "importlib_metadata"}
    assert packages.total() < 180
