"""A model on an inference server, opened: the adapter is here, its model is there."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from zoplat.core.blocks import Tile
from zoplat.core.direction import Direction
from zoplat.core.example import Example, Row
from zoplat.core.memory import MemoryReading
from zoplat.core.model_spec import ModelSpec
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.arrays import ArraySession
from zoplat_devices.kernels.host import host_backend
from zoplat_devices.memory import HostMemory
from zoplat_devices.pytorch import about, chat
from zoplat_devices.pytorch.lean import import_lean
from zoplat_devices.pytorch.loaded import embeddings, token_limit
from zoplat_devices.served import proof
from zoplat_devices.served.adapter import Adapter
from zoplat_devices.served.client import Server
from zoplat_devices.served.settings import ServedSettings
from zoplat_devices.text.encoding import Encoder

BESIDE = 2
"""Tokens that the server reads beside a row as it is encoded: the last one of an option, and one that it writes."""


class ServedSession(ArraySession):
    """An adapter whose losses a server computes. The server is asked when rows are encoded, and not before.

    Args:
        settings: of the device.
        spec: the model, whose configuration and tokenizer are read, and the tuning.

    Attributes:
        adapter: what is trained.

    Raises:
        ZoplatError: the model can't be found, or takes no such adapter.
    """

    def __init__(self, settings: ServedSettings, spec: ModelSpec) -> None:
        self.settings, self.host = settings, HostMemory()
        import_lean()
        self.adapter = Adapter(settings, spec)
        self.before = self.host.now()
        self.space = ParameterSpace(self.adapter.blocks, host_backend(), seed=spec.seed)
        self.strategy = "sequential" if settings.strategy == "sequential" else "batched"
        self._scratch: Any = np.empty(0, np.float32)
        self.facts = self._facts(spec)

    def _facts(self, spec: ModelSpec) -> dict[str, Any]:
        return {
            "device": "served",
            "model": self.adapter.loaded.name,
            "head": self.head,
            "base": spec.base,
            "dtype": "float32",
            "trainable_dtype": "float32",
            "restore": "in-place",
            "rounding": "nearest",
            "trainable_parameters": self.space.size,
            "model_bytes": self._adapter_bytes,
            "threads": 1,
            "kernels": self.space.backend_name,
            "memory_counter": self.host.method,
            "versions": about.versions(),
            "accelerator": None,
        }

    @property
    def _adapter_bytes(self) -> int:
        return sum(int(array.nbytes) for array in self.adapter.arrays.values())

    @cached_property
    def server(self) -> Server:
        """The server, once it was seen that it sees adapters."""
        self.settings.check_url()
        server = Server(self.settings, self.adapter.write)
        weakref.finalize(self, server.close)
        text = self._encoder(server.limit).text(proof.TEXT)

        def loss(points: Sequence[Mapping[str, Any] | None]) -> list[float]:
            return [-fmean(logs) for [logs] in server.log_probs(points, [text])]

        found = proof.check(self.adapter.arrays, loss, self.settings.url)
        server.remember(text, -loss([None])[0])
        self.facts["served"] = {"url": self.settings.url, "model": server.model, **found}
        return server

    @cached_property
    def encoder(self) -> Encoder:
        """Text to tokens, no more than the server reads."""
        return self._encoder(self.server.limit)

    def _encoder(self, limit: int | None) -> Encoder:
        loaded, asked = self.adapter.loaded, self.settings.max_tokens
        own = token_limit(loaded, 0, asked)
        most = min(own, limit - BESIDE) if limit else own
        return Encoder(loaded.tokenizer, most, embeddings=embeddings(loaded.model))

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return self.encoder.encode(examples)

    def chat(self, prompts: Sequence[str]) -> list[str]:
        return chat.turns(self.adapter.loaded.tokenizer, prompts, self.adapter.loaded.name)

    def forward(self, rows: Sequence[Row]) -> float:
        return self._losses(rows, [self.adapter.arrays])[0]

    def losses_at(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        size = self.settings.adapters
        groups = (directions[i : i + size] for i in range(0, len(directions), size))
        return [loss for some in groups for loss in self._losses(rows, self._formed(some))]

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        [logs] = self._option_logs(rows, [self.adapter.arrays], right=False)
        return [_scores(row, each) for row, each in zip(rows, logs, strict=True)]

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        tokens = max(1, min(tokens, self.encoder.limit - 1))
        texts = self.server.texts(self.adapter.arrays, self.encoder.prompts(rows, tokens), tokens, stop)
        return [text.partition(stop)[0].strip() for text in texts]

    def _losses(self, rows: Sequence[Row], points: Sequence[Mapping[str, Any]]) -> list[float]:
        """Mean loss of a batch at each point."""
        by_tokens = rows[0].example.loss == "tokens"
        total = sum(row.weight for row in rows) if by_tokens else len(rows)
        losses = _of_tokens if by_tokens else _of_options
        return [losses(rows, logs) / total for logs in self._option_logs(rows, points, by_tokens)]

    def _option_logs(
        self, rows: Sequence[Row], points: Sequence[Mapping[str, Any]], right: bool
    ) -> list[list[list[list[float]]]]:
        """For each point and row, for each option or the right one alone, the log-probabilities of its tokens."""
        chosen = [[row.example.label] if right else [*range(len(row.example.options))] for row in rows]
        texts = [_text(row, option) for row, options in zip(rows, chosen, strict=True) for option in options]
        found = []
        for answers in self.server.log_probs(points, texts):
            rest = iter(answers)
            found.append(
                [
                    [next(rest)[-len(row.tokens.targets[option]) :] for option in options]
                    for row, options in zip(rows, chosen, strict=True)
                ]
            )
        return found

    def _formed(self, directions: Sequence[Direction]) -> list[dict[str, Any]]:
        """What the arrays hold + d for each direction d, by block name."""
        n, blocks = len(directions), self.space.blocks
        if self._scratch.size < n * self.space.size:
            self._scratch = np.empty(n * self.space.size, np.float32)
        by_point = self._scratch[: n * self.space.size].reshape(n, -1)
        self.space.points(directions).write([Tile(block, 0, block.shape[0]) for block in blocks], range(n), by_point)
        ends = np.cumsum([block.size for block in blocks])
        return [
            {
                block.name: line[end - block.size : end].reshape(block.shape)
                for block, end in zip(blocks, ends, strict=True)
            }
            for line in by_point
        ]

    def memory(self) -> MemoryReading:
        return MemoryReading(*self.host.read())

    def reset_peak(self) -> None:
        self.host.reset()

    def ledger(self) -> dict[str, int]:
        return {
            "python, torch and transformers": self.before - self._adapter_bytes,
            "trainable weights": self._adapter_bytes,
            **{buffer.owner: buffer.bytes for buffer in self.space.buffers},
            "scratch": self.space.scratch_bytes + int(self._scratch.nbytes),
        }

    def export(self, directory: Path) -> None:
        self.adapter.export(directory)


def _text(row: Row, option: int) -> list[int]:
    """Token ids of a prompt with one of its options."""
    tokens = row.tokens
    line: list[int] = tokens.inputs[0 if tokens.is_shared else option]
    return [*line, tokens.targets[option][-1]]


def _scores(row: Row, logs: Sequence[Sequence[float]]) -> list[float]:
    """The score of each option."""
    reduce = sum if row.example.score == "sum" else fmean
    return [float(reduce(each)) for each in logs]


def _of_tokens(rows: Sequence[Row], logs: Sequence[Sequence[Sequence[float]]]) -> float:
    """Sum of −log p over the tokens of all right options."""
    return -sum(sum(right) for [right] in logs)


def _of_options(rows: Sequence[Row], logs: Sequence[Sequence[Sequence[float]]]) -> float:
    """Sum over the rows of the cross-entropy of their options' scores."""
    total = 0.0
    for row, each in zip(rows, logs, strict=True):
        scores = _scores(row, each)
        total += float(np.logaddexp.reduce(scores)) - scores[row.example.label]
    return total
