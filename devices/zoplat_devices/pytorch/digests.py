"""What tells a checkpoint from others: digests of the content of its files."""

from __future__ import annotations

import contextlib
import json
import time
from hashlib import file_digest, sha256
from pathlib import Path

from zoplat.paths import cache_folder, replace_text

PASSING = ("_name_or_path", "transformers_version")
"""Keys of config.json that say nothing about what the model computes."""
SETTLED = 2.0
"""Seconds that a file must be unchanged before its digest is kept: clocks of file systems are coarse."""


def identity_of(source: str, commit: str | None = None) -> str | None:
    """A digest of the names and the content of a folder's files; of a hub id, itself and its commit, if known."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{commit}" if commit else None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return _combined({file.name: content_digest(file) for file in files})


def model_digest_of(source: str, commit: str | None = None) -> str | None:
    """A digest of the weights and the configuration alone, frozen weights included; of a hub id, as `identity_of`."""
    folder = Path(source)
    if not folder.is_dir():
        return identity_of(source, commit)
    digests = {file.name: content_digest(file) for file in sorted(folder.glob("*.safetensors"))}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({name: value for name, value in config.items() if name not in PASSING}, sort_keys=True)
    return _combined({**digests, "config.json": sha256(text.encode()).hexdigest()})


def content_digest(file: Path) -> str:
    """sha256 of a file's bytes; kept in the cache folder until anything about the file changes."""
    facts = file.stat()
    mark = f"{file.resolve()} {facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    kept = cache_folder() / "digests" / sha256(mark.encode()).hexdigest()[:32]
    with contextlib.suppress(OSError, ValueError):
        if len(text := kept.read_text(encoding="ascii")) == 64:
            return text
    with file.open("rb") as content:
        digest = file_digest(content, "sha256").hexdigest()
    if time.time() - max(facts.st_mtime, facts.st_ctime) > SETTLED:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            replace_text(kept, digest)
    return digest


def _combined(digests: dict[str, str]) -> str:
    return sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
