"""ONNX Runtime: causal language models of transformers, exported once, then answered by an inference engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat.core.blocks import Block
from zoplat.core.device import MemoryReading, Session
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import ModelSpec
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.onnx.device import ENGINES, OnnxRuntime, _say, _version


class OnnxSession(Session):
    """A graph, opened."""

    def __init__(self, device: OnnxRuntime, spec: ModelSpec) -> None:
        from zoplat_devices.kernels.host import host_backend
        from zoplat_devices.memory import HostMemory

        self.host, self.device, self.spec = HostMemory(), device, spec
        providers = device.chosen()
        self.folder, self.start = device.found(spec)
        from zoplat_devices.onnx.graph import Facts, Graph, PlainTokenizer
        from zoplat_devices.onnx.points import Stacks
        from zoplat_devices.text.encoding import Encoder

        self.told = told = Facts.read(self.folder)
        self.before = self.host.now()
        self.weights = told.arrays(self.folder, told.proved_on)
        self.held = -self.host.now()
        self.graph = Graph(self.folder, self.weights, providers, device.threads or _processors(), device.pack)
        self.held += self.host.now()
        self.encoder = Encoder(PlainTokenizer(self.folder, told.bos), told.limit)
        self.strategy = _strategy(device, spec, self.graph.is_stacked)
        parity = {**told.parity, **self._proved()}
        for name, array in told.arrays(self.folder, self.start).items():
            self.weights[name][...] = array
        blocks = [
            device.block(block["name"], self.weights[block["name"]], "float32", block["layer"]) for block in told.blocks
        ]
        self.space = ParameterSpace(blocks, host_backend(), seed=spec.seed)
        self.stacks = Stacks(self.graph, self.space, self.weights)
        self.facts = {**self._facts(blocks), "parity": parity}

    def write_bundle(self, directory: Path) -> None:
        from zoplat_devices.onnx.bundle import write

        write(self, directory)

    def _proved(self) -> dict[str, Any]:
        """How the graph answers edits now, once none was found to be ignored."""
        from zoplat_devices.onnx import points, proof

        rows, where = self.encode([proof.EXAMPLE]), str(self.folder)
        proof = proof.Proof.read(self.told.proof)
        off = proof.check(self.weights, lambda: self.graph.loss(rows), where)
        told = {"edits_off_by": off, "edits_without_effect": proof.unfelt}
        if self.graph.is_stacked:
            told["points_off_by"] = points.proved(self.graph, rows, self.weights, where)
        return told

    def _facts(self, blocks: Sequence[Block]) -> dict[str, Any]:
        names = ("zoplat", "numpy", "safetensors", "tokenizers", *ENGINES)
        running = {name: version for name in names if (version := _version(name))}
        return {
            "device": "onnx",
            "model": self.told.model,
            "model_identity": self.told.identity,
            "head": self.head,
            "base": self.told.base,
            "dtype": "float32",
            "trainable_dtype": "float32",
            "restore": "in-place",
            "rounding": "nearest",
            "trainable_parameters": sum(block.size for block in blocks),
            "model_bytes": self.told.model_bytes,
            "threads": self.device.threads or _processors(),
            "kernels": self.space.backend_name,
            "memory_counter": self.host.method,
            "versions": {**self.told.versions, **running, "python": sys.version.split()[0], "system": sys.platform},
            "accelerator": None,
            "provider": self.graph.provider,
            "graph": str(self.folder),
        }

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return self.encoder.encode(examples)

    def forward(self, rows: Sequence[Row]) -> float:
        return self.graph.loss(rows)

    def losses_at(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        return self.stacks.losses(rows, directions)

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        return self.graph.scores(rows)

    def chat(self, prompts: Sequence[str]) -> list[str]:
        raise ZoplatError("Device 'onnx' keeps no chat template. Leave --template out, or use --device cpu.")

    def memory(self) -> MemoryReading:
        return MemoryReading(*self.host.read())

    def reset_peak(self) -> None:
        self.host.reset()

    def ledger(self) -> dict[str, int]:
        trainable = sum(array.nbytes for array in self.weights.values())
        return {
            "python and onnxruntime": self.before,
            "trainable weights": trainable,
            "frozen weights, in a mapped file": self.told.model_bytes - trainable,
            "graph": max(0, self.held),
            **{buffer.owner: buffer.bytes for buffer in self.space.buffers},
            "scratch": self.space.scratch_bytes + self.stacks.scratch.nbytes,
        }

    def digest(self) -> str:
        digest = sha256()
        for array in self.weights.values():
            digest.update(array.data)
        return f"sha256:{digest.hexdigest()}"

    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.numpy import save_file

        save_file(arrays, path)

    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.numpy import load_file

        for name, array in load_file(path).items():
            arrays[name][...] = array

    def export(self, directory: Path) -> None:
        from zoplat_devices.onnx.export import Source

        source = Source(self.device, self.spec, _say)
        for name, array in self.weights.items():
            source.arrays[name][...] = array
        source.model.save_pretrained(directory)
        source.loaded.tokenizer.save_pretrained(directory)


def _strategy(device: OnnxRuntime, spec: ModelSpec, is_stacked: bool) -> str:
    if device.strategy == "batched" and not is_stacked:
        raise ZoplatError(
            f"strategy=batched is for adapters; with --tune {spec.tune.name} the graph takes one point at a time. "
            "Leave -o device.strategy=batched out."
        )
    return "batched" if is_stacked and device.strategy != "sequential" else "sequential"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
