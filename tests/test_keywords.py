"""The typed keywords of `zoplat.run` are the settings of a run and the flags of the command; and what it returns."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import zoplat
from zoplat.cli.run import run as command
from zoplat.config.keywords import RunSettings
from zoplat.config.layers import resolve
from zoplat.config.parts import SHORTHANDS, setting_fields
from zoplat.config.run_config import SECTIONS, RunConfig
from zoplat.errors import RunFailed, ZoplatError
from zoplat.training.callbacks import Callback

OF_THE_COMMAND = {"dry_run", "quiet", "as_json", "plugin"}
"""Flags about what is printed, and about files of plugins."""
OF_THE_FUNCTION = {"callback"}


def keywords() -> dict[str, Any]:
    return get_type_hints(RunSettings)


def test_every_setting_of_a_run_is_a_keyword_of_its_type() -> None:
    fields, found = get_type_hints(RunConfig), keywords()
    names = {field.name for field in setting_fields(RunConfig)} - {"estimator_name", "device_name"}
    others = {*SHORTHANDS, "sampler", "step_rule", "options", "config", "preset"}
    assert set(found) == names | others
    for name in names - set(SECTIONS):
        given, declared = ({*(get_args(hint) or (hint,))} for hint in (found[name], fields[name]))
        assert declared <= given, name
        assert given - declared <= {Path}, name


def test_every_flag_of_the_command_is_a_keyword() -> None:
    flags = {str(parameter.name) for parameter in command.params} - OF_THE_COMMAND
    signature = {name for name in inspect.signature(zoplat.run).parameters if name != "settings"} - OF_THE_FUNCTION
    assert flags - {"allow_commands", "trust_remote_code"} <= set(keywords()) | signature
    assert signature <= flags


def test_unknown_and_wrong_keywords_are_errors_with_an_exit_status() -> None:
    with pytest.raises(ZoplatError, match="Did you mean 'mezo'") as caught:
        resolve({"estimator": "mezzo"})
    assert (caught.value.exit_status, RunFailed.exit_status) == (2, 1)


def test_a_run_has_a_history_a_page_for_notebooks_and_a_callback(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    seen: list[int] = []

    class Steps(Callback):
        def stepped(self, progress: Any, loss: float | None) -> None:
            seen.append(progress.step)

    result = zoplat.run(
        device="reference", estimator="mezo", steps=4, evaluate_every=2, batch_size=4, limit=8, lr=1e-3,
        out=tmp_path / "<run>", callback=Steps(),
    )  # fmt: skip
    frame = result.history()
    assert seen == [1, 2, 3, 4]
    assert [*frame.index] == [0, 1, 2, 3, 4]
    assert frame.index.name == "step"
    assert [*frame.columns] == ["loss", "lr", "dev", "test"]
    assert frame["loss"].notna().tolist() == [False, True, True, True, True]
    assert frame["dev"].notna().tolist() == [True, False, True, False, True]
    assert frame["test"].loc[4] == result.score
    assert (frame["lr"].loc[1:] == 1e-3).all()
    page = result._repr_html_()
    assert "&lt;run&gt;" in page
    assert f"→ {result.score:.3f}" in page


@pytest.mark.slow
def test_a_type_checker_knows_the_keywords(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    root = Path(zoplat.__file__).parents[1]
    source = "import zoplat\nzoplat.run(lr=1e-6, steps=5, task='sst2')\nzoplat.run(lr='x')\nzoplat.run(stepz=5)\n"
    (tmp_path / "calls.py").write_text(source)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "--follow-imports=silent", "calls.py"]
    places = f"{root}:{root / 'plugins'}:{root / 'devices'}"
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"MYPYPATH": places, "PATH": ""}
    )
    assert "calls.py:2" not in done.stdout, done.stdout + done.stderr
    assert 'calls.py:3: error: Argument "lr"' in done.stdout, done.stdout + done.stderr
    assert 'calls.py:4: error: Unexpected keyword argument "stepz"' in done.stdout
