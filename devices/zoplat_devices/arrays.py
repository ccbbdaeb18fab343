"""What sessions share whose trained weights are arrays of numpy: their digest, and files of such arrays."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat.core.device import Session


class ArraySession(Session):
    """A session with arrays of numpy."""

    def digest(self) -> str:
        import numpy

        digest = sha256()
        for block in self.space.blocks:
            digest.update(numpy.ascontiguousarray(block.array).data)
        return f"sha256:{digest.hexdigest()}"

    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.numpy import save_file

        save_file(arrays, path)

    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.numpy import load_file

        for name, array in load_file(path).items():
            arrays[name][...] = array
