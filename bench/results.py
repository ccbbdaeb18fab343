"""The file of results: rows that replace their predecessors, and the runs that they come from."""

from __future__ import annotations

import json
import platform
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FOLDER = Path(__file__).parent / "results"
IDENTITY = ("kind", "model", "setup", "pair", "step", "shape", "dtype")
"""Fields by which a row is known."""


def read(path: Path) -> dict[str, list[Row]]:
    """Runs and rows; none where there is no file."""
    if not path.exists():
        return {"runs": [], "rows": []}
    held: dict[str, list[Row]] = json.loads(path.read_text(encoding="utf-8"))
    return held


def merge(path: Path, run: Row, rows: Iterable[Row]) -> None:
    """Write rows of a run into a file in place of those of the same name; runs that have no row left are dropped."""
    held = read(path)
    named = {_name(row): {**row, "run": held["runs"][row["run"]]} for row in held["rows"]}
    named |= {_name(row): {**row, "run": run} for row in rows}
    runs: list[Row] = []
    for row in named.values():
        if row["run"] not in runs:
            runs.append(row["run"])
    lines = [json.dumps({**row, "run": runs.index(row["run"])}, ensure_ascii=False) for row in named.values()]
    heads = [json.dumps(one, ensure_ascii=False) for one in runs]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    parts = (f'"{name}": [\n ' + ",\n ".join(each) + "\n]" for name, each in (("runs", heads), ("rows", lines)))
    beside.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    beside.replace(path)


def command_of(program: str, parser: ArgumentParser, arguments: Namespace) -> str:
    """What measures the same again, wherever its results go."""
    for name, value in vars(arguments).items():
        if name not in ("out", "cpu", "list") and value != parser.get_default(name):
            values = [] if value is True else value if isinstance(value, list) else [value]
            program += " " + shlex.join([f"--{name}", *map(str, values)])
    return program


def run_of(command: str, accelerator: Row | None = None) -> Row:
    """What the page says about a run."""
    import torch

    versions = {name: metadata.version(name) for name in ("zoplat", "torch", "transformers")}
    versions["python"] = platform.python_version()
    place = {"processor": processor(), "threads": torch.get_num_threads(), "accelerator": accelerator}
    return {"command": command, "date": date.today().isoformat(), **place, "versions": versions}


def processor() -> str:
    """The processor's own name, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _name(row: Row) -> str:
    return json.dumps([row.get(field) for field in IDENTITY])
