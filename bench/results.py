"""Files of results: rows, each of which replaces an earlier one of the same case, and the runs they come from."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FOLDER = Path(__file__).parent / "results"
IDENTITY = ("kind", "model", "setup", "pair", "step", "shape", "dtype")
"""Fields that identify the case of a row."""
UNRECORDED = ("out", "cpu", "list", "until", "left")
"""Options of programs that change no figure."""


def read(path: Path) -> dict[str, list[Row]]:
    """Runs and rows of a file; none where there is no file."""
    if not path.exists():
        return {"runs": [], "rows": []}
    content: dict[str, list[Row]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def merge(path: Path, run: Row, rows: Iterable[Row]) -> None:
    """Write rows of a run to a file in place of earlier rows of the same cases; drop runs that have no row left."""
    earlier = read(path)
    by_case = {_case(row): {**row, "run": earlier["runs"][row["run"]]} for row in earlier["rows"]}
    by_case |= {_case(row): {**row, "run": run} for row in rows}
    runs: list[Row] = []
    for row in by_case.values():
        if row["run"] not in runs:
            runs.append(row["run"])
    lines = [json.dumps({**row, "run": runs.index(row["run"])}, ensure_ascii=False) for row in by_case.values()]
    run_lines = [json.dumps(one, ensure_ascii=False) for one in runs]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    lists = (("runs", run_lines), ("rows", lines))
    parts = (f'"{name}": [\n ' + ",\n ".join(items) + "\n]" for name, items in lists)
    temporary.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    temporary.replace(path)


def command_of(program: str, parser: ArgumentParser, arguments: Namespace) -> str:
    """The command that repeats a measurement, without options that change no figure."""
    for name, value in vars(arguments).items():
        if name not in UNRECORDED and value != parser.get_default(name):
            values = [] if value is True else value if isinstance(value, list) else [value]
            program += " " + shlex.join([f"--{name.replace('_', '-')}", *map(str, values)])
    return program


def run_of(command: str, accelerator: Row | None = None) -> Row:
    """The facts that the page shows about a run: command, date, hardware and versions."""
    import torch

    versions = {name: metadata.version(name) for name in ("zoplat", "torch", "transformers")}
    versions["python"] = platform.python_version()
    if triton := find_spec("triton"):
        versions["triton"] = metadata.version(triton.name)
    hardware = {"processor": processor(), "threads": torch.get_num_threads(), "accelerator": accelerator}
    return {"command": command, "date": date.today().isoformat(), "commit": commit(), **hardware, "versions": versions}


def commit() -> str | None:
    """The commit of the working tree; None where git does not know."""
    command = ["git", "-C", str(FOLDER.parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The model name of the processor, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _case(row: Row) -> str:
    return json.dumps([row.get(field) for field in IDENTITY])
