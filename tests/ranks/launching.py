"""Processes of a run, and what it left."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def started(ranks: int, args: list[str], *launcher: str, variables: dict[str, str] | None = None) -> Any:
    """The process of torchrun, or of zoplat itself for one rank."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *launcher, "-m"]
    line = [sys.executable, *(torchrun if ranks > 1 else ["-m"]), "zoplat", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: Any, seconds: float = 240) -> str:
    """What a process printed; it must have succeeded."""
    output = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, output[-3000:]
    return str(output)


def summary(out: str) -> dict[str, Any]:
    """The summary of a run."""
    found: dict[str, Any] = json.loads(Path(out, "summary.json").read_text())
    return found


def answers(out: str) -> list[list[float]]:
    """The answers of every step of a run."""
    lines = Path(out, "journal.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["answers"] for line in lines]
