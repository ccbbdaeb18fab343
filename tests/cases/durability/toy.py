"""Runs of a toy on the reference device, through the command line."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing

from zoplat.cli import main

TOY = ("--device", "reference", "--estimator", "mezo", "--limit", 16, "--batch-size", 4, "--lr", 1e-2)
FREE = {"seconds", "seconds_training", "overhead_ratio", "peak_bytes", "inference_peak_bytes", "run_dir"}
FREE |= {"step_peak_bytes", "forward_peak_bytes", "drift", "passes_over_weights"}


def zoplat(*arguments: Any) -> click.testing.Result:
    done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    assert "Traceback" not in done.output
    return done


def run(*arguments: Any) -> dict[str, Any]:
    done = zoplat("run", *TOY, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def start(*arguments: Any) -> subprocess.Popen[str]:
    def handle_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "zoplat", *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=handle_interrupts,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_in(folder: str) -> int:
    journal = Path(folder, "journal.jsonl")
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def digest_of_replay(folder: str) -> str:
    replayed = json.loads(zoplat("replay", folder, "--json").stdout)
    assert replayed["status"] == "done"
    return str(replayed["weights_digest"])


def the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert {k: v for k, v in one.items() if k not in FREE} == {k: v for k, v in other.items() if k not in FREE}
