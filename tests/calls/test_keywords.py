"""The typed keywords of `zoplat.run`, `plan` and `compare` are the settings of a run and the flags of the commands."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import pytest

import zoplat
from zoplat.cli.check import check as check_command
from zoplat.cli.compare import compare as compare_command
from zoplat.cli.plan import plan as plan_command
from zoplat.cli.run import run as run_command
from zoplat.comparison.matrix import AXES, NUMBERS
from zoplat.config.keywords import CompareSettings, RunSettings
from zoplat.config.layers import resolve
from zoplat.config.parts import SHORTHANDS, setting_fields
from zoplat.config.run_config import SECTIONS, RunConfig
from zoplat.errors import RunFailed, ZoplatError

OF_THE_COMMANDS = {"dry_run", "quiet", "as_json", "allow_commands", "trust_remote_code"}
"""Flags about what is printed, and permissions that a program of one's own does not need from itself."""
OF_THE_FUNCTIONS = {"callback", "progress", "sync_every"}
"""Values that no flag can give, and a setting that has none."""


def test_every_setting_of_a_run_is_a_keyword_of_its_type() -> None:
    fields, found = get_type_hints(RunConfig), get_type_hints(RunSettings)
    names = {field.name for field in setting_fields(RunConfig)} - {"estimator_name", "device_name"}
    others = {*SHORTHANDS, "sampler", "step_rule", "options", "config", "preset"}
    assert set(found) == names | others
    for name in names - set(SECTIONS):
        given, declared = ({*(get_args(hint) or (hint,))} for hint in (found[name], fields[name]))
        assert declared <= given, name
        assert given - declared <= {Path}, name


def test_every_axis_and_number_of_a_matrix_is_a_keyword() -> None:
    assert {*AXES, *NUMBERS} <= set(get_type_hints(CompareSettings))


@pytest.mark.parametrize(
    ("function", "command"),
    [
        (zoplat.run, run_command),
        (zoplat.plan, plan_command),
        (zoplat.compare, compare_command),
        (zoplat.check, check_command),
    ],
)
def test_the_flags_of_a_command_are_the_keywords_of_its_function(
    function: Callable[..., Any], command: click.Command
) -> None:
    flags = {str(parameter.name) for parameter in command.params} - OF_THE_COMMANDS
    if function is zoplat.run:
        flags |= {"plugin"}
    shown = set(inspect.signature(function).parameters)
    assert {*flags, "plugin"} == shown - OF_THE_FUNCTIONS


def test_the_public_names_are_completed() -> None:
    assert {"run", "compare", "plan", "check", "Callback"} <= set(dir(zoplat))


def test_unknown_and_wrong_keywords_are_errors_with_an_exit_status() -> None:
    with pytest.raises(ZoplatError, match="Did you mean 'mezo'") as caught:
        resolve({"estimator": "mezzo"})
    assert (caught.value.exit_status, RunFailed.exit_status) == (2, 1)


@pytest.mark.slow
def test_a_type_checker_tells_right_calls_from_wrong_ones(tmp_path: Path) -> None:
    """Each line of calls.py that ends with a comment must be an error that has its words; the others must be none."""
    pytest.importorskip("mypy")
    root, source = Path(zoplat.__file__).parents[1], Path(__file__).with_name("typed_calls.txt").read_text()
    (tmp_path / "calls.py").write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "--follow-imports=silent"]
    places = f"{root}:{root / 'plugins'}:{root / 'devices'}"
    done = subprocess.run(
        [*command, "calls.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"MYPYPATH": places, "PATH": ""},
    )
    for number, line in enumerate(source.splitlines(), 1):
        _, is_wrong, words = line.partition("  # ")
        said = [text for text in done.stdout.splitlines() if text.startswith(f"calls.py:{number}: error:")]
        assert bool(said) == bool(is_wrong), f"{line}\n{done.stdout}{done.stderr}"
        assert all(words in text for text in said), said
