"""Checkpoints: θ, the states and the progress of a run, in a folder that is complete or not there.

checkpoint/newest                    name of the folder below
checkpoint/costs.json                what the run has cost so far, see `training.costs`
checkpoint/step-N/weights.safetensors   trained arrays and state buffers
checkpoint/step-N/state.json         progress, digest of the weights, states without their buffers, checksums
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from shlex import quote
from typing import Any

from zoplat.core.device import Session
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.paths import flush_to_disk, replace_text
from zoplat.training.progress import Progress
from zoplat.training.states import state_from_json, state_to_json


class DamagedCheckpoint(ZoplatError):
    """A checkpoint that is not as it was written.

    Args:
        what: the damage.
        run: the run directory.
        touched: whether θ was changed already when it was found.
    """

    def __init__(self, what: str, run: Path, touched: bool = False) -> None:
        name = quote(str(run))
        super().__init__(
            f"{what} The journal has the steps: `zoplat run --resume --out {name}` goes on without the checkpoint, and "
            f"`zoplat replay {name} --to {quote(f'{run}-weights')}` writes the weights."
        )
        self.what, self.touched = what, touched


class Checkpoints:
    """The checkpoints of a run, of which only the newest is kept.

    Args:
        folder: made with the first checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: int | None = None  # step of the newest, where this process wrote it or read it

    def save(self, session: Session, progress: Progress, states: dict[str, Any]) -> None:
        """Write a checkpoint, make it the newest, and delete the one before. θ must be settled.

        Raises:
            RunFailed: it can't be written; the one before is still there.
        """
        folder = self.folder / f"step-{progress.step}"
        if self._known == progress.step:  # a resumed run reaches the same weights again
            return
        if folder.exists():
            shutil.rmtree(folder)
        self.folder.mkdir(exist_ok=True)  # the run directory is not made again where somebody deleted it
        folder.mkdir()
        try:
            self._write(folder, session, progress, states)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        replace_text(self.folder / "newest", folder.name, lasts=True)
        flush_to_disk(self.folder)
        self._known = progress.step
        for old in self.folder.glob("step-*"):
            if old.name != folder.name:
                shutil.rmtree(old)

    def _write(self, folder: Path, session: Session, progress: Progress, states: dict[str, Any]) -> None:
        weights = folder / "weights.safetensors"
        plain = {name: state_to_json(state, session.space) for name, state in states.items()}
        content = {**vars(progress), "weights_digest": session.digest(), "states": plain}
        try:
            session.write(weights, _arrays(session))
        except Exception as problem:  # each runtime has errors of its own
            shutil.rmtree(folder, ignore_errors=True)
            raise RunFailed(
                f"{weights} can't be written: {problem}. The journal has every step: put that right and go on with "
                f"--resume --out {self.folder.parent}."
            ) from problem
        content["weights_checksum"] = _checksum(weights)
        content["checksum"] = _checksum_of(content)
        replace_text(folder / "state.json", json.dumps(content))
        for file in (weights, folder / "state.json", folder):
            flush_to_disk(file)

    def load(self, session: Session, states: dict[str, Any], steps: int) -> Progress | None:
        """Read the newest checkpoint into θ and the states.

        Args:
            session: the model, as it was opened.
            states: fresh, by name; they are filled in place.
            steps: in the journal. A checkpoint of a later step is dropped: the steps in between are not on record.

        Returns:
            The progress at the checkpoint; None when there is no checkpoint.

        Raises:
            DamagedCheckpoint: it is not as it was written. θ and the states are untouched if its checksums say so.
        """
        folder = self._newest()
        if folder is None:
            return None
        saved = self._verified(folder)
        if saved["step"] > steps:
            self.drop()
            return None
        try:
            session.read(folder / "weights.safetensors", _arrays(session))
            session.space.reset()
            for name, state in states.items():
                state_from_json(state, saved["states"][name], session.space)
            progress = _progress(saved)
        except Exception as problem:  # each runtime has errors of its own
            what = f"{folder} can't be used: {type(problem).__name__}: {problem}."
            raise DamagedCheckpoint(what, self.folder.parent, touched=True) from problem
        if session.digest() != saved["weights_digest"]:
            what = f"{folder} is damaged: its weights do not have the digest that was saved with them."
            raise DamagedCheckpoint(what, self.folder.parent, touched=True)
        self._known = progress.step
        return progress

    def check(self) -> None:
        """Raise DamagedCheckpoint where the newest checkpoint is not as it was written, as far as its files tell."""
        folder = self._newest()
        if folder is not None:
            self._verified(folder)

    def step(self) -> int | None:
        """Steps made before the newest checkpoint; None where there is none, or a damaged one."""
        try:
            folder = self._newest()
            return None if folder is None else int(self._verified(folder)["step"])
        except DamagedCheckpoint:
            return None

    def drop(self) -> None:
        """Forget the newest checkpoint."""
        (self.folder / "newest").unlink(missing_ok=True)
        self._known = None

    def _verified(self, folder: Path) -> dict[str, Any]:
        """Content of state.json."""
        try:
            saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            weights = _checksum(folder / "weights.safetensors")
            expected = saved.pop("checksum", None)  # checkpoints of earlier versions have none
            intact = expected is None or (expected, saved["weights_checksum"]) == (_checksum_of(saved), weights)
            intact = intact and {"states", "weights_digest"} <= saved.keys() and type(saved["step"]) is int
        except OSError as problem:
            what = f"{folder} is damaged: {problem.filename}: {problem.strerror}."
            raise DamagedCheckpoint(what, self.folder.parent) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            intact = False
        if not intact:
            what = f"{folder} is damaged: its files do not match their checksums."
            raise DamagedCheckpoint(what, self.folder.parent)
        return dict(saved)

    def _newest(self) -> Path | None:
        mark = self.folder / "newest"
        try:
            name = mark.read_bytes().decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise DamagedCheckpoint(f"{mark} can't be read: {problem.strerror}.", self.folder.parent) from None
        if not re.fullmatch(r"step-[0-9]+", name):
            raise DamagedCheckpoint(f"{mark} is damaged: it names no checkpoint.", self.folder.parent)
        return self.folder / name


def _checksum(path: Path) -> str:
    """Checksum of a file."""
    checksum = blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            checksum.update(part)
    return checksum.hexdigest()


def _checksum_of(content: dict[str, Any]) -> str:
    """Checksum of the content of state.json."""
    return blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _arrays(session: Session) -> dict[str, Any]:
    """The arrays of a checkpoint by name: those of the state buffers in order of allocation, and the trained ones."""
    buffers = {
        f"buffer/{index}/{name}": array
        for index, buffer in enumerate(session.space.buffers)
        for name, array in buffer.arrays.items()
    }
    return {**buffers, **session.arrays()}


def _progress(saved: dict[str, Any]) -> Progress:
    """The progress in a checkpoint; those of earlier versions have neither tokens nor joules."""
    return Progress(**{"tokens": None} | {one.name: saved[one.name] for one in fields(Progress) if one.name in saved})
