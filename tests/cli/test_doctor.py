"""`zoplat doctor` names every package that the project asks for, and the extra that brings it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat.cli import main
from zoplat.cli.doctor import PACKAGES

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EVERYWHERE = {"click", "pluggy", "psutil", "rich", "tomli-w"}
"""Small ones, without which no command begins."""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=; ]", requirement)[0] for requirement in requirements}


def test_it_has_every_dependency() -> None:
    assert names(PROJECT["dependencies"]) <= PACKAGES.keys() | EVERYWHERE


def test_the_extras_that_it_names_have_the_package() -> None:
    for package, purpose in PACKAGES.items():
        for extra in re.findall(r"zoplat\[([\w-]+)\]", purpose):
            assert {package, f"{package}-gpu"} & names(PROJECT["optional-dependencies"][extra]), (package, extra)


def test_a_package_that_is_missing_is_named_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoplat.cli import doctor

    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    lines = click.testing.CliRunner().invoke(main, ["doctor"]).stdout.splitlines()
    assert "  peft            not installed: --tune lora and other adapters" in lines
