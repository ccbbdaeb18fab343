"""`--plugin FILE.py` with compare and poc: workers load the file too, and a study is bound to its content."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat.cli import main
from zoplat.comparison import planned
from zoplat.registry import catalogue

LEVEL = '''"""Perturbations of one size."""

from dataclasses import dataclass

from zoplat import Sampler, hookimpl


@dataclass(frozen=True)
class Level(Sampler):
    """Signs, half as long."""

    def fill(self, out, tile, key, noise):
        out[:] = noise.sign(tile.shape, key, tile) * 0.5


@hookimpl
def zoplat_samplers():
    return {"level": Level()}
'''
TOY = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--max-passes", 8)
ASKED = ("--estimators", "mezo", "--samplers", "level", *TOY, "--plugin", "level.py")


@pytest.fixture(autouse=True)
def written(zoplat: Any) -> Iterator[None]:
    """A file with a law, forgotten by this process after the test."""
    Path("level.py").write_text(LEVEL)
    known = dict(catalogue().entries)
    yield
    catalogue().entries.clear()
    catalogue().entries.update(known)


def forget() -> None:
    """Have no part of the file in this process."""
    for entry in [key for key, found in catalogue().entries.items() if found[0].distribution == "level.py"]:
        del catalogue().entries[entry]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Runs are made by commands in this process, for they are tiny; the list says which commands."""
    made: list[tuple[str, ...]] = []

    def output_of(claim: int, running: Any, command: str, *arguments: str) -> dict[str, Any] | str:
        made.append((command, *arguments))
        done = CliRunner().invoke(main, [command, *arguments, "--json"])
        return dict(json.loads(done.stdout)) if done.exit_code == 0 else str(done.stderr.strip().splitlines()[-1])

    monkeypatch.setattr(planned, "_output_of", output_of)
    return made


def test_a_worker_in_its_own_process_has_the_parts_of_the_file(zoplat: Any) -> None:
    done = zoplat("compare", *ASKED, "--out", "own", "--json")
    assert done.exit_code == 0, done.stderr
    [row] = json.loads(done.stdout)["rows"]
    assert (row["label"], row["sampler"]) == ("mezo+level", "level")
    header = json.loads(next(Path("own").glob("*/journal.jsonl")).read_text().splitlines()[0])
    version = header["plugins"]["level.py"]
    assert version.startswith("sha256:")
    assert tomllib.loads(Path("own/study.toml").read_text())["study"]["plugins"] == {"level.py": version}


def test_a_study_is_bound_to_the_content_and_never_loads_code_by_itself(
    zoplat: Any, commands: list[tuple[str, ...]]
) -> None:
    assert zoplat("compare", *ASKED, "--out", "own").exit_code == 0
    again = zoplat("compare", "--join", "own", "--plugin", "level.py")
    assert (again.exit_code, len(commands)) == (0, 1), "nothing is made twice"
    report = zoplat("report", "own", "--to", "own.md")
    assert report.exit_code == 0, report.stderr
    page = Path("own.md").read_text()
    assert "zoplat compare --config own/study.toml --out own-again --plugin level.py" in page
    assert "--out own/mezo+level-0-again --plugin level.py" in page
    Path("level.py").write_text(LEVEL.replace("0.5", "0.25"))
    other = zoplat("compare", *ASKED, "--out", "own")
    assert other.exit_code == 2
    assert "own was begun with level.py as it was then (sha256:" in other.stderr
    forget()
    without = ("--estimators", "mezo,lozo", *TOY, "--out", "own")
    for arguments in (("--join", "own"), ("--config", "own/study.toml", "--out", "new"), without):
        alone = zoplat("compare", *arguments)
        assert alone.exit_code == 2
        assert "uses the parts of level.py; give it too: --plugin level.py" in alone.stderr


def test_a_run_without_its_file_says_which_flag_is_missing_and_its_report_has_it(zoplat: Any) -> None:
    one = ("--sampler", "level", "--out", "r", "--plugin", "level.py")
    assert zoplat("run", "--estimator", "mezo", *TOY, *one).exit_code == 0
    assert zoplat("report", "r", "--to", "r.md").exit_code == 0
    page = Path("r.md").read_text()
    assert "zoplat run --config r/config.toml --out r-again --plugin level.py" in page
    assert "zoplat replay r --to r-weights --plugin level.py" in page
    commands = (
        ("replay", "r"),
        ("run", "--resume", "--out", "r", "--quiet"),
        ("eval", "r"),
        ("export", "r", "--to", "w"),
    )
    for command in commands:
        forget()
        alone = zoplat(*command)
        assert alone.exit_code == 2
        assert "r uses parts of level.py (sha256:" in alone.stderr
        assert "Give that file too: --plugin level.py" in alone.stderr
        assert zoplat(*command, "--plugin", "level.py").exit_code == 0


def test_poc_takes_it_too_and_names_it_in_its_commands(zoplat: Any, commands: list[tuple[str, ...]]) -> None:
    pytest.importorskip("scipy")
    short = ("--shots", 0, "--no-backpropagation", "--estimators", "mezo", "-o", "sampler.name=level")
    done = zoplat("poc", *TOY, *short, "--plugin", "level.py", "--json")
    found = json.loads(done.stdout)
    assert [one["reason"] for one in found["tried"]] == ["", ""]
    place = str(Path("level.py").absolute())
    assert [command[-2:] for command in commands] == [("--plugin", place)] * 2
    assert any(
        command["command"].endswith(f"--plugin {place} --max-passes 32 --out runs/poc-longer")
        for command in found["commands"]
    )
