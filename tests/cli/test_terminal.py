"""Output that everybody can read: as JSON, in a log, on a narrow terminal, without colours, and less of it."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import click.testing
import pytest

from zoplat.cli import main
from zoplat.cli.terminal import fitted
from zoplat_devices.edge.runner import main as edge

from .conftest import TOY

MODEL = ("--device", "cpu", "--limit", "8", "--batch-size", "4")
COMMANDS: dict[str, list[tuple[str, ...]]] = {
    "check": [("check", "constant")],
    "compare": [
        ("compare", "first", "second"),
        ("compare", "--estimators", "mezo", *TOY, "--max-passes", "8", "--out", "study", "--dry-run"),
    ],
    "diff": [("diff", "first", "second")],
    "doctor": [("doctor",)],
    "eval": [("eval", *TOY[:4])],
    "export": [("export", "first", "--to", "exported")],
    "list": [("list", "estimators"), ("list", "presets"), ("list", "runs", "--in", ".")],
    "new-plugin": [("new-plugin", "sampler", "level", "--to", "package")],
    "plan": [("plan", "--model", "MODEL", *MODEL, "--memory", "8GiB", "--alone")],
    "privacy": [("privacy", "--rows", "1000", "--batch-size", "16", "--steps", "1000", "--epsilon", "8")],
    "profile": [("profile", *TOY, "--steps", "2"), ("profile", *TOY, "--suggest-eps")],
    "repair": [("repair", "first")],
    "replay": [("replay", "first")],
    "report": [("report", "first", "--to", "report")],
    "run": [("run", *TOY, "--steps", "4", "--evaluate-every", "2", "--out", "third"), ("run", *TOY, "--dry-run")],
    "show": [("show", "lozo"), ("show", "sst2"), ("show", "mezo-paper/opt-13b"), ("show", "lozo", "--bibtex")],
}
"""Command → some calls of it, in a folder with the runs `first` and `second`."""
ELSEWHERE = {"join": "tests/ranks", "pack": "tests/devices", "poc": "tests/cli/test_poc.py"}
"""Commands that take long, or a machine; that they print nothing but JSON is tested there."""
CALLS = [call for calls in COMMANDS.values() for call in calls]
SOME = [pytest.param(call, marks=pytest.mark.slow if call[0] in ("plan", "report") else ()) for call in CALLS]
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:[34][0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> Path:
    """A folder with two runs, and a model."""
    folder = tmp_path_factory.mktemp("terminal")
    small_model().rename(folder / "MODEL")
    for name, steps in (("first", 4), ("second", 6)):
        flags = (*TOY, "--steps", str(steps), "--out", str(folder / name), "--quiet")
        done = click.testing.CliRunner().invoke(main, ["run", *flags])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    for name in ("exported", "package", "report", "study", "third"):
        if (folder / name).exists():
            subprocess.run(["rm", "-r", name], check=True)
    return folder


def skip_if_absent(call: tuple[str, ...]) -> None:
    """Skip the test of a command whose package is an extra that is not installed."""
    if call[0] == "privacy":
        pytest.importorskip("dp_accounting")


def all_commands() -> list[tuple[str, click.Command]]:
    found = []
    for program, group in (("zoplat", main), ("zoplat-edge", edge)):
        root = click.Context(group)
        found += [(f"{program} {name}", group.get_command(root, name)) for name in group.list_commands(root)]
    return [(name, command) for name, command in found if command]


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_takes_json_and_quiet(name: str, command: click.Command) -> None:
    assert {"--json", "--quiet"} <= {flag for parameter in command.params for flag in parameter.opts}


def test_every_command_is_tried_here_or_elsewhere() -> None:
    assert {*COMMANDS, *ELSEWHERE} == {*main.list_commands(click.Context(main))}


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_json_is_all_that_is_on_standard_output(call: tuple[str, ...], there: Path) -> None:
    skip_if_absent(call)
    done = click.testing.CliRunner().invoke(main, [*call, "--json"])
    assert done.exit_code in (0, 1), done.output
    assert isinstance(json.loads(done.stdout), dict | list)


@pytest.mark.parametrize("call", SOME, ids=" ".join)
def test_quiet_leaves_the_result_and_nothing_on_standard_error(call: tuple[str, ...], there: Path) -> None:
    skip_if_absent(call)
    done = click.testing.CliRunner().invoke(main, [*call, "--quiet"])
    assert done.exit_code in (0, 1), done.output
    assert done.stdout.strip()
    assert done.stderr == ""


def test_a_log_has_progress_as_lines_without_escapes(there: Path) -> None:
    done = click.testing.CliRunner().invoke(
        main, ["run", *TOY, "--steps", "6", "--evaluate-every", "2", "--out", "third"]
    )
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.output
    assert "\r" not in done.output
    assert [line for line in lines if line.startswith("step 4: dev accuracy")]
    assert "run directory third" in lines


RUNNER = """
import sys
from zoplat.cli import main
for call in {calls!r}:
    print("$", *call, flush=True)
    try:
        main.main(list(call), prog_name="zoplat", standalone_mode=False)
    except SystemExit:
        pass
"""


def on_a_terminal(folder: Path, calls: list[tuple[str, ...]], columns: int, **environment: str) -> str:
    """What a terminal of that width gets, escapes included; one process makes all calls."""
    leader, follower = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(leader, 1 << 16)
            except OSError:  # the other end is closed
                return
            if not part:
                return
            shown.append(part)

    own = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color", **environment}
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    command = [sys.executable, "-c", RUNNER.format(calls=calls)]
    done = subprocess.run(command, cwd=folder, env=own, stdin=follower, stdout=follower, stderr=follower, check=False)
    os.close(follower)
    reader.join(timeout=10)
    os.close(leader)
    text = b"".join(shown).decode(errors="replace")
    assert done.returncode == 0, text[-3000:]
    return text.replace("\r\n", "\n")


def too_wide(text: str, columns: int) -> list[str]:
    """Lines that are wider than the terminal although they could be broken; those that the runner prints left out."""
    lines = [ESCAPE.sub("", line).rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return [line for line in lines if len(line) > columns and len(line.split()) > 2 and not line.startswith("$")]


@pytest.mark.slow
def test_every_command_fits_a_terminal_of_80_columns_without_colour(there: Path) -> None:
    text = on_a_terminal(there, CALLS, 80, NO_COLOR="1")
    assert text.count("$ ") >= len(CALLS)
    assert "Traceback" not in text
    assert not COLOUR.search(text)
    assert too_wide(text, 80) == []


@pytest.mark.slow
def test_colours_are_there_where_nobody_forbids_them_and_a_telephone_is_enough(there: Path) -> None:
    calls = [("check", "constant"), ("list", "estimators"), ("compare", "first", "second"), ("doctor",)]
    text = on_a_terminal(there, calls, 44, NO_COLOR="")
    assert COLOUR.search(text)
    assert too_wide(text, 44) == []


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("short", 20, "short"),
        ("mezo  2  a line of some words", 20, "mezo  2  a line of\n         some words"),
        ("  indented words that go on", 16, "  indented words\n    that go on"),
        ("averyveryverylongwordwithoutblanks", 10, "averyveryverylongwordwithoutblanks"),
        ("| a | b |\n| --- | ---: |\n| one | 22222 |", 12, "a: one\nb: 22222\n"),
        ("| a |\n| --- |\n| 1 |", 12, "| a |\n| --- |\n| 1 |"),
    ],
)
def test_text_is_fitted_to_a_width(text: str, width: int, expected: str) -> None:
    assert fitted(text, width) == expected


def test_output_that_is_no_terminal_is_left_whole(there: Path) -> None:
    done: Any = click.testing.CliRunner(env={"COLUMNS": "40"}).invoke(main, ["list", "presets"])
    rows = [line for line in done.stdout.splitlines() if line.strip()]
    assert max(map(len, rows)) > 150
    assert all(re.match(r"\S+ ", row) for row in rows)
