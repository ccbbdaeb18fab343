"""Checkpoints: θ, the states and the progress of a run, in a folder that is complete or not there.

checkpoint/newest                    name of the folder below
checkpoint/step-N/weights.safetensors   trained arrays and state buffers
checkpoint/step-N/state.json         progress, digest of the weights, states without their buffers
"""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.paths import replace_text
from zoplat.training.progress import Progress
from zoplat.training.states import state_from_json, state_to_json


class Checkpoints:
    """The checkpoints of a run, of which only the newest is kept.

    Args:
        folder: made with the first checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, session: Session, progress: Progress, states: dict[str, Any]) -> None:
        """Write a checkpoint, make it the newest, and delete the one before. θ must be settled."""
        folder = self.folder / f"step-{progress.step}"
        if self._newest() == folder:  # a resumed run reaches the same weights again
            return
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        session.write(folder / "weights.safetensors", _arrays(session))
        plain = {name: state_to_json(state, session.space) for name, state in states.items()}
        content = {**vars(progress), "weights_digest": session.digest(), "states": plain}
        replace_text(folder / "state.json", json.dumps(content))
        replace_text(self.folder / "newest", folder.name)
        for old in self.folder.glob("step-*"):
            if old.name != folder.name:
                shutil.rmtree(old)

    def load(self, session: Session, states: dict[str, Any], steps: int) -> Progress | None:
        """Read the newest checkpoint into θ and the states.

        Args:
            session: the model, as it was opened.
            states: fresh, by name; they are filled in place.
            steps: in the journal. A checkpoint of a later step is dropped: the steps in between are not on record.

        Returns:
            The progress at the checkpoint; None when there is no checkpoint.

        Raises:
            ZoplatError: the weights do not have the digest that was saved with them.
        """
        folder = self._newest()
        if folder is None:
            return None
        saved = json.loads((folder / "state.json").read_text())
        if saved["step"] > steps:
            (self.folder / "newest").unlink()
            return None
        session.read(folder / "weights.safetensors", _arrays(session))
        session.space.reset()
        for name, state in states.items():
            state_from_json(state, saved["states"][name], session.space)
        if session.digest() != saved["weights_digest"]:
            raise ZoplatError(f"{folder} is damaged: its weights do not have the digest that was saved with them.")
        return Progress(**{field.name: saved[field.name] for field in fields(Progress)})

    def _newest(self) -> Path | None:
        mark = self.folder / "newest"
        return self.folder / mark.read_text().strip() if mark.exists() else None


def _arrays(session: Session) -> dict[str, Any]:
    """The arrays of a checkpoint by name: those of the state buffers in order of allocation, and the trained ones."""
    buffers = {
        f"buffer/{index}/{name}": array
        for index, buffer in enumerate(session.space.buffers)
        for name, array in buffer.arrays.items()
    }
    return {**buffers, **session.arrays()}
