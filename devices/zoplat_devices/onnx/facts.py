"""What is known about a graph: facts.json in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FACTS = "facts.json"


@dataclass(frozen=True)
class Facts:
    """What a graph was made of, and how it was checked.

    Attributes:
        model: its name as the user gave it.
        identity: identifies its weights.
        base: "plain", or how frozen weights are stored.
        limit: tokens of the longest sequence that it reads.
        bos: id of the token that begins a text, or None.
        blocks: name, layer and shape in the graph of each trained weight, in order.
        model_bytes: of all weights, frozen and trained.
        parity: losses and scores of PyTorch compared with those of the graph.
        proof: what edits of the trained weights do to the loss; see proof.py.
        proved_on: name of the file with the initial values that the proof was made with.
        versions: of the packages that made it.
    """

    model: str
    identity: str
    base: str
    limit: int
    bos: int | None
    blocks: list[dict[str, Any]]
    model_bytes: int
    parity: dict[str, Any]
    proof: dict[str, Any]
    proved_on: str
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """The facts of the graph in a folder."""
        return cls(**json.loads((folder / FACTS).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write facts.json."""
        (folder / FACTS).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def arrays(self, folder: Path, start: str) -> dict[str, Any]:
        """Initial values of the trained weights by name, each in the shape of the graph."""
        from safetensors.numpy import load_file

        values = load_file(folder / start)
        return {block["name"]: values[block["name"]].reshape(block["shape"]) for block in self.blocks}
