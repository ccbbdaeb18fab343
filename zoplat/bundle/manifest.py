"""bundle.json, the manifest: versions and facts of a bundle, and size and checksum of every other file.

Checksums find damage and careless changes; they are no signature.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from zoplat import __version__
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Noise

FORMAT = 1
MANIFEST = "bundle.json"
SHOWN = {"model", "base", "tune", "estimator", "task"}
"""Facts that every manifest has."""


def write_manifest(folder: Path, noise: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of everything in a folder; returns it.

    Args:
        folder: of the bundle, complete but for the manifest.
        noise: name of the random numbers that the bundle was packed for.
        facts: about the run, for `check` and `pack` to show.
    """
    sums = {path.relative_to(folder).as_posix(): file_sum(path) for path in sorted(_files(folder))}
    manifest = {"zoplat_bundle": FORMAT, "zoplat": __version__, "noise": noise}
    manifest |= {"facts": dict(facts), "files": sums}
    manifest |= {"checksum": manifest_checksum(manifest)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder in which every byte is as packed.

    Raises:
        ZoplatError: it is of another version, or a file is changed, missing, added, or outside of the folder.
    """
    manifest = _read(folder)
    listed = manifest["files"]
    for name in listed:
        _check_name(folder, name)
    present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
    if missing := sorted(listed.keys() - present):
        raise _damaged(folder, f"{missing[0]} is missing")
    if added := sorted(present - listed.keys()):
        raise _damaged(folder, f"{added[0]} was added")
    for name, expected in listed.items():
        if file_sum(folder / name) != expected:
            raise _damaged(folder, f"{name} is not what was packed")
    return manifest


def file_sum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the manifest lists them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own checksum."""
    return sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    """The manifest itself; raises ZoplatError unless it is whole and of this version."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise ZoplatError(f"{folder} is not a bundle: it has no {MANIFEST}. `zoplat pack --to DIR` makes one.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        format_, noise = manifest["zoplat_bundle"], manifest["noise"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(folder, f"{MANIFEST} can't be read") from None
    if format_ != FORMAT:
        raise ZoplatError(f"{folder} is a bundle of format {format_}; zoplat {__version__} reads {FORMAT}. Pack again.")
    if noise != Noise.name:
        raise ZoplatError(
            f"{folder} was packed for noise '{noise}'; zoplat {__version__} makes '{Noise.name}'. Pack again."
        )
    if manifest.pop("checksum", None) != manifest_checksum(manifest):
        raise _damaged(folder, f"{MANIFEST} is not what was packed")
    files, facts = manifest.get("files"), manifest.get("facts")
    if not isinstance(files, dict) or not all(isinstance(file, dict) for file in files.values()):
        raise _damaged(folder, f"{MANIFEST} lists no files")
    if not isinstance(facts, dict) or not facts.keys() >= SHOWN:
        raise _damaged(folder, f"{MANIFEST} has no facts about {', '.join(sorted(SHOWN))}")
    return {"zoplat": "an unknown version", **manifest}


def _check_name(folder: Path, name: str) -> None:
    """Raise ZoplatError unless a listed path is relative and inside the folder, on any system."""
    path, other = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or other.drive or other.root or "\\" in name or ".." in path.parts or str(path) != name:
        raise _damaged(folder, f"{MANIFEST} names '{name}', which points outside")


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder; raises ZoplatError for a link or anything else that is not a regular file."""
    for place, subfolders, names in os.walk(folder):
        for path in (Path(place, name) for name in [*subfolders, *names]):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise _damaged(folder, f"{path.relative_to(folder)} is a link or no plain file")
        yield from (Path(place, name) for name in names)


def _damaged(folder: Path, what: str) -> ZoplatError:
    return ZoplatError(f"The bundle in {folder} was changed or damaged: {what}. Copy it again, or pack it again.")
