"""What is fuzzed: every reader of files that come from outside, as a function of bytes.

A target may raise ZoplatError and what click makes of mistakes. Anything else is a finding.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import click

from zoplat.bundle.manifest import MANIFEST, manifest_checksum, read_manifest
from zoplat.config.layers import read_toml, resolve
from zoplat.core.errors import ZoplatError
from zoplat.core.preset import read_presets
from zoplat.planning.profiles import byte_count, find
from zoplat.report.study import stored
from zoplat.tasks import custom, files
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal, chained_checksum
from zoplat_devices.pytorch import screening

Target: TypeAlias = "Callable[[bytes], object]"
SHARED = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="zoplat-fuzz-", dir=SHARED if SHARED.is_dir() else None))


@contextmanager
def file(data: bytes, name: str) -> Iterator[Path]:
    """A file with this content."""
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    yield path


def settings(data: bytes) -> None:
    """A settings file of `--config`."""
    with file(data, "settings.toml") as path:
        resolve({"config": path})


def task(data: bytes) -> None:
    """A task file; read anew each time."""
    with file(data, "task.toml") as path:
        custom._read.__wrapped__(path, 0)


def rows(data: bytes) -> None:
    """Rows as lines of JSON."""
    with file(data, "lines/train.jsonl") as path:
        files.read(path.parent, "train", ["text"])


def table(data: bytes) -> None:
    """Rows as a table of CSV."""
    with file(data, "tables/train.csv") as path:
        files.read(path.parent, "train", ["text"])


def journal(data: bytes) -> None:
    """A journal as it lies."""
    with file(data, "journal.jsonl") as path:
        Journal.read(path)


def signed_journal(data: bytes) -> None:
    """A journal whose lines have the right checksums, whatever they say."""
    chain, lines = "", []
    for line in data.decode(errors="replace").splitlines():
        body = line if line.endswith("}") else line + "}"
        chain = chained_checksum(chain, body)
        lines.append(f'{body[:-1]}, "checksum": "{chain}"}}\n')
    with file("".join(lines).encode(), "signed.jsonl") as path:
        Journal.read(path)


def run_directory(data: bytes) -> None:
    """The files of a run beside its journal: each reads all of the bytes as its own."""
    for name in ("summary.json", "metrics.jsonl", "memory.jsonl", "config.toml"):
        with file(data, f"run/{name}"):
            pass
    directory = RunDirectory(FOLDER / "run")
    for read in (directory.read_summary, directory.read_metrics, directory.read_memory, directory.read_config):
        suppressed(read)


def manifest(data: bytes) -> None:
    """A bundle's manifest; what is a JSON object is signed."""
    try:
        content = dict(json.loads(data))
        content["checksum"] = manifest_checksum({k: v for k, v in content.items() if k != "checksum"})
        data = json.dumps(content).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    with file(data, f"bundle/{MANIFEST}") as path:
        read_manifest(path.parent)


def study(data: bytes) -> None:
    """A comparison in one file, compressed or not."""
    with file(data, "study.jsonl.gz") as path:
        stored.opened([path])


def profile(data: bytes) -> None:
    """A profile of a machine, and an amount of memory."""
    with file(data, "profile.toml") as path:
        suppressed(find, str(path))
    byte_count(data.decode(errors="replace"), "--memory")


def presets(data: bytes) -> None:
    """Presets of a plugin."""
    with file(data, "presets/own.toml") as path:
        read_presets(path.parent)


def gguf(data: bytes) -> None:
    """The values of a GGUF file, before the library that reads them sees it."""
    with file(data, "model.gguf") as path:
        screening._check_values(path)


def toml(data: bytes) -> None:
    """Any TOML file."""
    with file(data, "any.toml") as path:
        read_toml(path)


TARGETS: dict[str, Target] = {
    "settings": settings,
    "task": task,
    "rows": rows,
    "table": table,
    "journal": journal,
    "signed-journal": signed_journal,
    "run-directory": run_directory,
    "manifest": manifest,
    "study": study,
    "profile": profile,
    "presets": presets,
    "gguf": gguf,
    "toml": toml,
}


def suppressed(call: Callable[..., object], *arguments: object) -> None:
    """Call something; what it may raise is no finding."""
    with suppress(ZoplatError, click.ClickException):
        call(*arguments)
