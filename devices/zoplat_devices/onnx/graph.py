"""A graph that computes scores and losses, run by ONNX Runtime: numpy, onnxruntime and nothing heavier.

    graph.onnx           from tokens and trained weights to scores and losses
    graph.onnx.data      frozen weights; mapped into memory
    graph-rounding.onnx  the same with activations rounded to 8 bits, where it was asked for
    slopes-*.json        slopes of the exact one, to compare those of the other with
    start-*.safetensors  initial values of the trained weights
    tokenizer.json       of the `tokenizers` library
    facts.json           `facts.Facts`

Trained weights are inputs of the graph, bound to numpy arrays that are edited in place. Where these inputs have a
leading dimension of points, one run evaluates several points. Sequences are padded at their ends: in a causal model no
token depends on later ones, so no attention mask is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat_devices.text.layout import laid_out

GRAPH, ROUNDING, TOKENIZER = "graph.onnx", "graph-rounding.onnx", "tokenizer.json"
BATCH = ("input_ids", "sequence", "position", "token", "share", "absent", "label")
"""Inputs of a graph, except its trained weights; see `feeds`."""
OUTPUTS = ("scores", "options", "tokens")
"""Outputs of a graph, for each point: scores of all options, the loss over options, the loss over tokens."""


class Graph:
    """A graph with its trained weights bound to arrays.

    Args:
        folder: of the graph.
        arrays: the trained weights by name; the next run sees what is written into them.
        providers: execution providers of ONNX Runtime, best first.
        threads: of the processor.
        prepack: whether frozen weights are copied into the layout that matrix products read.
        file: its name in the folder.

    Attributes:
        is_stacked: whether trained weights have a leading dimension of points.

    Raises:
        ZoplatError: ONNX Runtime can't open the graph, or some of the arrays are no inputs of it.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Mapping[str, Any],
        providers: Sequence[str],
        threads: int,
        prepack: bool,
        file: str = GRAPH,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False  # both keep what the longest batch took
        options.add_session_config_entry("session.disable_prepacking", str(int(not prepack)))
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # idle threads leave the cores to the update
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / file), options, providers=[*providers], disabled_optimizers=["ConstantFolding"]
            )  # folding would copy the slices that `pieces` cuts
        except Exception as problem:  # onnxruntime's own classes share no other base
            raise ZoplatError(
                f"ONNX Runtime can't open the graph in {folder}: {problem}. Delete that folder to have it made again."
            ) from problem
        known = {value.name: value.shape for value in self._session.get_inputs()}
        if unread := [name for name in arrays if name not in known]:
            raise ZoplatError(
                f"The graph in {folder} does not read {', '.join(unread[:3])}, so edits would be ignored. "
                "Delete that folder to have it made again."
            )
        self.is_stacked = any(len(known[name]) > array.ndim for name, array in arrays.items())
        self._arrays = {name: array[None] if self.is_stacked else array for name, array in arrays.items()}
        self._binding = self._session.io_binding()
        self._bind(self._arrays)

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return str(self._session.get_providers()[0])

    def loss(self, rows: Sequence[Row]) -> float:
        """Mean loss of a batch at what the arrays hold now."""
        [loss] = self._losses(rows)
        return loss

    def losses(self, rows: Sequence[Row], points: Mapping[str, Any]) -> list[float]:
        """Mean loss of a batch at several points: trained weights by name, with a leading dimension of points."""
        self._bind(points)
        try:
            return self._losses(rows)
        finally:
            self._bind(self._arrays)

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row."""
        scores = self._run(feeds(rows, False), "scores")
        lines = scores.reshape(-1, scores.shape[-1]).tolist()
        return [line[: len(row.example.options)] for row, line in zip(rows, lines, strict=True)]

    def write_adapter(self, path: Path) -> None:
        """Write the trained weights in ONNX Runtime's format of adapters."""
        from onnxruntime import AdapterFormat

        adapter = AdapterFormat()
        adapter.set_adapter_version(1)
        adapter.set_model_version(1)
        adapter.set_parameters(self._inputs)
        adapter.export_adapter(str(path.absolute()))

    def _losses(self, rows: Sequence[Row]) -> list[float]:
        tokens = rows[0].example.loss == "tokens"
        losses = self._run(feeds(rows, tokens), "tokens" if tokens else "options")
        return [float(loss) for loss in losses.reshape(-1)]

    def _bind(self, arrays: Mapping[str, Any]) -> None:
        from onnxruntime import OrtValue

        self._inputs = {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)

    def _run(self, batch: Mapping[str, Any], output: str) -> Any:
        for name, array in batch.items():
            self._binding.bind_cpu_input(name, array)
        self._binding.clear_binding_outputs()
        self._binding.bind_output(output)
        self._session.run_with_iobinding(self._binding)
        return self._binding.copy_outputs_to_cpu()[0]


def feeds(rows: Sequence[Row], right: bool) -> dict[str, Any]:
    """A batch as inputs of the graph.

    Args:
        rows: of the batch.
        right: whether the loss is that of the tokens of the right options, a mean over the tokens of all rows.

    Returns:
        input_ids (sequences, tokens); of each of n scored tokens its sequence, position and token; share (rows,
        options, n), the weight of each in a score; absent (rows, options), −∞ past the options of a row; label (rows).
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
    """A tokenizer.json with the interface of a fast tokenizer of transformers, as far as `Encoder` uses it."""

    is_fast = True

    def __init__(self, folder: Path, bos: int | None) -> None:
        from tokenizers import Tokenizer

        self.inner = Tokenizer.from_file(str(folder / TOKENIZER))
        self.inner.no_truncation()
        self.inner.no_padding()
        self.bos_token_id = bos

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[Any]]:
        """Ids, character offsets and special-token marks of each text."""
        encodings = self.inner.encode_batch(list(texts))
        return {
            "input_ids": [one.ids for one in encodings],
            "offset_mapping": [one.offsets for one in encodings],
            "special_tokens_mask": [one.special_tokens_mask for one in encodings],
        }
