"""A graph of the loss that ONNX Runtime answers, opened from a folder: numpy, onnxruntime and nothing heavier.

    graph.onnx           from tokens and trained weights to scores and losses
    graph.onnx.data      what is frozen; mapped into memory
    start-*.safetensors  what is trained, as it begins
    tokenizer.json       of the `tokenizers` library
    facts.json           `Facts`

Trained weights are inputs of the graph, bound to arrays of the host that are edited in place. Where they have a
dimension in front, the graph answers for as many points at once. Sequences are filled up at their ends: what a causal
model reads of a token does not hang on what follows it, so no mask is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat_devices.text.layout import laid_out

GRAPH, FACTS, TOKENIZER = "graph.onnx", "facts.json", "tokenizer.json"
BATCH = ("input_ids", "sequence", "position", "token", "share", "absent", "label")
"""Inputs of a graph beside its weights; see `feeds`."""
ANSWERS = ("scores", "options", "tokens")
"""Outputs: the score of each option, the loss over them, and that of the tokens of the right ones; of each point."""


@dataclass(frozen=True)
class Facts:
    """What a graph was made of.

    Attributes:
        model: how it was asked for.
        identity: what tells its weights from others.
        base: "plain", or how frozen weights are held.
        limit: tokens that it reads.
        bos: id of the token that begins a text, or None.
        blocks: of what is trained, in order: name, layer and shape in the graph.
        model_bytes: of all weights.
        parity: answers of PyTorch beside those of the graph.
        proof: what edits do.
        proved_on: the start that the proof was found on.
        versions: of what made it.
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
        """Of a folder."""
        return cls(**json.loads((folder / FACTS).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Into a folder."""
        (folder / FACTS).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def arrays(self, folder: Path, start: str) -> dict[str, Any]:
        """What is trained, as it begins, by name; each in the shape that the graph wants."""
        from safetensors.numpy import load_file

        told = load_file(folder / start)
        return {block["name"]: told[block["name"]].reshape(block["shape"]) for block in self.blocks}


class Graph:
    """A graph with its trained weights bound to arrays.

    Args:
        folder: where it is.
        arrays: what is trained, by name; edits are seen by the next answer.
        providers: of ONNX Runtime, best first.
        threads: of the processor.
        pack: whether frozen weights are copied into the order in which they are multiplied.

    Raises:
        ZoplatError: the engine can't open it, or it does not read some of the arrays.
    """

    def __init__(
        self, folder: Path, arrays: Mapping[str, Any], providers: Sequence[str], threads: int, pack: bool
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", str(int(not pack)))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are for the moves meanwhile
        try:
            self.session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=[*providers])
        except Exception as problem:  # onnxruntime's own classes share no other base
            raise ZoplatError(
                f"ONNX Runtime can't open the graph in {folder}: {problem}. Delete that folder to have it made again."
            ) from problem
        known = {value.name: value.shape for value in self.session.get_inputs()}
        if unread := [name for name in arrays if name not in known]:
            raise ZoplatError(
                f"The graph in {folder} does not read {', '.join(unread[:3])}, so edits would be ignored. "
                "Delete that folder to have it made again."
            )
        self.is_stacked = any(len(known[name]) > array.ndim for name, array in arrays.items())
        self.arrays = {name: array[None] if self.is_stacked else array for name, array in arrays.items()}
        self.binding = self.session.io_binding()
        self._bind(self.arrays)

    @property
    def provider(self) -> str:
        """The one that answers."""
        return str(self.session.get_providers()[0])

    def loss(self, rows: Sequence[Row]) -> float:
        """Mean loss of a batch at the arrays as they stand."""
        [told] = self._losses(rows)
        return told

    def losses(self, rows: Sequence[Row], points: Mapping[str, Any]) -> list[float]:
        """The same at several points: arrays by name, with one more dimension in front."""
        self._bind(points)
        try:
            return self._losses(rows)
        finally:
            self._bind(self.arrays)

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row."""
        told = self._answer(feeds(rows, False), "scores")
        lines = told.reshape(-1, told.shape[-1]).tolist()
        return [scores[: len(row.example.options)] for row, scores in zip(rows, lines, strict=True)]

    def _losses(self, rows: Sequence[Row]) -> list[float]:
        tokens = rows[0].example.loss == "tokens"
        told = self._answer(feeds(rows, tokens), "tokens" if tokens else "options")
        return [float(loss) for loss in told.reshape(-1)]

    def _bind(self, arrays: Mapping[str, Any]) -> None:
        from onnxruntime import OrtValue

        self.held = {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        for name, value in self.held.items():
            self.binding.bind_ortvalue_input(name, value)

    def _answer(self, batch: Mapping[str, Any], output: str) -> Any:
        for name, array in batch.items():
            self.binding.bind_cpu_input(name, array)
        self.binding.clear_binding_outputs()
        self.binding.bind_output(output)
        self.session.run_with_iobinding(self.binding)
        return self.binding.copy_outputs_to_cpu()[0]


def feeds(rows: Sequence[Row], right: bool) -> dict[str, Any]:
    """A batch as the graph reads it.

    Args:
        rows: of the batch.
        right: whether the loss is that of the tokens of the right options, a mean over the tokens of all rows.

    Returns:
        input_ids (sequences, tokens); of each of n scored tokens its sequence, position and token; share (rows,
        options, n), what each adds to a score; absent (rows, options), −∞ past the options of a row; label (rows).
    """
    layout = laid_out(rows, "causal", right)
    lengths = np.array([len(ids) for ids in layout.sequences])
    ids = np.zeros((len(lengths), lengths.max()), np.int64)
    for line, sequence in zip(ids, layout.sequences, strict=True):
        line[: len(sequence)] = sequence
    where, back, token, slot, part = (np.array(column) for column in zip(*layout.places, strict=True))
    share = np.zeros((len(rows), layout.options, len(slot)), np.float32)
    share.reshape(-1, len(slot))[slot, np.arange(len(slot))] = 1 / sum(row.weight for row in rows) if right else part
    counts = np.array([len(row.example.options) for row in rows])
    absent = np.where(np.arange(layout.options) < counts[:, None], 0, -np.inf).astype(np.float32)
    label = np.array([row.example.label for row in rows])
    return dict(zip(BATCH, (ids, where, back + lengths[where], token, share, absent, label), strict=True))


class PlainTokenizer:
    """A tokenizer.json, with what `Encoder` asks of a fast tokenizer of transformers."""

    is_fast = True

    def __init__(self, folder: Path, bos: int | None) -> None:
        from tokenizers import Tokenizer

        self.inner = Tokenizer.from_file(str(folder / TOKENIZER))
        self.inner.no_truncation()
        self.inner.no_padding()
        self.bos_token_id = bos

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[Any]]:
        """Ids, offsets and marks of each text."""
        told = self.inner.encode_batch(list(texts))
        return {
            "input_ids": [one.ids for one in told],
            "offset_mapping": [one.offsets for one in told],
            "special_tokens_mask": [one.special_tokens_mask for one in told],
        }
