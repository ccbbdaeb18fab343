"""A command line in an empty folder, and distributions that a test installs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat.cli import main
from zoplat.comparison.planned import PlannedRun
from zoplat.core.errors import ZoplatError
from zoplat.training.train import train

TOY = ("--device", "reference", "--limit", "16", "--batch-size", "4")
"""Flags of a run that takes milliseconds."""
STUDY = (*TOY, "--max-passes", "12")
"""Flags of a study whose runs take milliseconds."""


def listens_to_interrupts() -> None:
    """Handle SIGINT again, which background jobs of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class CommandLine:
    """`zoplat …` as typed in one folder."""

    toy = TOY

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: Any) -> click.testing.Result:
        """Run a command inside this process."""
        return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])

    def run(self, *arguments: Any) -> dict[str, Any]:
        """Make a toy run, which must succeed; returns its summary."""
        done = self("run", *TOY, *arguments, "--json")
        assert done.exit_code == 0, (done.stderr, done.exception)
        return dict(json.loads(done.stdout))

    def compared(self, *arguments: Any) -> dict[str, Any]:
        """Make a comparison, which must succeed; returns what it prints with `--json`."""
        done = self("compare", *arguments, "--json")
        assert done.exit_code == 0, (done.stderr, done.exception)
        return dict(json.loads(done.stdout))

    def refused(self, *arguments: Any) -> str:
        """Run a command that must exit with 2, print one message and write nothing; returns the message."""
        before = self.files()
        done = self(*arguments)
        assert isinstance(done.exception, SystemExit), repr(done.exception)
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
        assert done.stdout == ""
        assert self.files() == before
        return str(done.stderr)

    def start(self, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
        """Start a command in another process."""
        return subprocess.Popen(
            [sys.executable, "-m", "zoplat", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=listens_to_interrupts,
        )

    def files(self) -> dict[str, bytes]:
        """Content of all files below the folder, by relative path."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b""
            for path in self.folder.rglob("*")
        }


@pytest.fixture
def zoplat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return CommandLine(folder)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs of a comparison are made in this process, for they are tiny; the list says which, in order."""
    made: list[str] = []

    def execute(self: PlannedRun, claim: int, running: Any) -> Any:
        made.append(str(self))
        try:
            return train(self.config, self.directory, resume=True).summary
        except ZoplatError as problem:
            return self.failed(f"Error: {problem}")

    monkeypatch.setattr(PlannedRun, "execute", execute)
    return made
