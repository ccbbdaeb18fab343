"""A session of ONNX Runtime: a graph, its trained weights as numpy arrays, and what they take of memory."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoplat.core.blocks import Block
from zoplat.core.device import Device
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.memory import MemoryReading
from zoplat.core.model_spec import ModelSpec
from zoplat.paths import replace_text
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.arrays import ArraySession
from zoplat_devices.kernels.host import host_backend
from zoplat_devices.memory import HostMemory
from zoplat_devices.onnx import agreement, bundle_files, points
from zoplat_devices.onnx.facts import Facts
from zoplat_devices.onnx.graph import GRAPH, ROUNDING, Graph, PlainTokenizer
from zoplat_devices.onnx.kept_graph import KeptGraph, notice
from zoplat_devices.onnx.proof import EXAMPLE, Proof
from zoplat_devices.onnx.settings import Engine
from zoplat_devices.onnx.versions import ENGINES, installed
from zoplat_devices.text.encoding import Encoder


class OnnxSession(ArraySession):
    """A graph, opened.

    Args:
        device: makes blocks of arrays.
        spec: what the graph was made of.
        engine: how it is run.
        kept: the graph on disk.
        host: measures memory; made before the graph, so that its peak has the export in it.

    Attributes:
        weights: what is trained, by name, in the shapes of the graph.
        folder: of the graph.

    Raises:
        ZoplatError: the graph can't be opened or ignores edits of its weights, or the strategy needs an adapter.
    """

    def __init__(self, device: Device, spec: ModelSpec, engine: Engine, kept: KeptGraph, host: HostMemory) -> None:
        self.device, self.spec, self.folder, self.start = device, spec, kept.folder, kept.start
        self.host = host
        self.graph_facts = Facts.read(self.folder)
        self.before = self.host.now()
        self.weights = self.graph_facts.arrays(self.folder, self.graph_facts.proved_on)
        before = self.host.now()
        self.graph = self._opened(engine)
        self.graph_bytes = self.host.now() - before
        self.encoder = Encoder(PlainTokenizer(self.folder, self.graph_facts.bos), self.graph_facts.limit)
        self.strategy = _strategy(engine, spec, self.graph.is_stacked)
        parity = {**self.graph_facts.parity, **self._prove()}
        if engine.activations == "int8":
            parity["slopes_agree"] = self._round_activations(engine)
        for name, array in self.graph_facts.arrays(self.folder, self.start).items():
            self.weights[name][...] = array
        blocks = [
            device.block(block["name"], self.weights[block["name"]], "float32", block["layer"])
            for block in self.graph_facts.blocks
        ]
        self.space = ParameterSpace(blocks, host_backend(), seed=spec.seed)
        self.stacks = points.Stacks(self.graph, self.space, self.weights)
        self.facts = {**self._facts(engine, blocks), "parity": parity}

    def _opened(self, engine: Engine, file: str = GRAPH) -> Graph:
        packs = engine.prepack or file == ROUNDING  # only what is packed is multiplied as integers
        return Graph(self.folder, self.weights, engine.providers, engine.threads, packs, file)

    def _round_activations(self, engine: Engine) -> float:
        """Take the graph that rounds activations in place of the exact one; how well their slopes agree."""
        path, kept, rows = self.folder / ROUNDING, self.folder / agreement.EXACT, self.encode(agreement.EXAMPLES)
        if not (path.exists() and kept.exists()):
            if importlib.util.find_spec("onnx_ir") is None:
                raise ZoplatError(
                    f"activations=int8 needs a second graph, which {self.folder} does not have and onnx_ir makes: "
                    "pip install 'zoplat[onnx]', or pack the bundle again with -o device.activations=int8."
                )
            from zoplat_devices.onnx.quantising import write_rounding

            notice("comparing slopes of the graph with and without rounded activations, once")
            replace_text(kept, json.dumps(agreement.differences(self.graph, rows, self.weights)))
            write_rounding(self.folder / GRAPH, path)
        del self.graph  # before the other one takes as much memory
        self.graph = self._opened(engine, ROUNDING)
        rounded = agreement.differences(self.graph, rows, self.weights)
        return agreement.check(json.loads(kept.read_text(encoding="utf-8")), rounded, self.graph_facts.model)

    def _prove(self) -> dict[str, Any]:
        """How far the graph's answers to edits are off; raises ZoplatError where it ignores them."""
        rows, where = self.encode([EXAMPLE]), str(self.folder)
        proof = Proof.read(self.graph_facts.proof)
        off = proof.check(self.weights, lambda: self.graph.loss(rows), where)
        found = {"edits_off_by": off, "edits_without_effect": proof.without_effect}
        if self.graph.is_stacked:
            found["points_off_by"] = points.check(self.graph, rows, self.weights, where)
        return found

    def _facts(self, engine: Engine, blocks: Sequence[Block]) -> dict[str, Any]:
        made_of = self.graph_facts
        running = installed(("zoplat", "numpy", "safetensors", "tokenizers", *ENGINES))
        return {
            "device": "onnx",
            "model": made_of.model,
            "model_identity": made_of.identity,
            "head": self.head,
            "base": made_of.base,
            "dtype": "float32",
            "trainable_dtype": "float32",
            "restore": "in-place",
            "rounding": "nearest",
            "trainable_parameters": sum(block.size for block in blocks),
            "model_bytes": made_of.model_bytes,
            "threads": engine.threads,
            "kernels": self.space.backend_name,
            "memory_counter": self.host.method,
            "versions": {**made_of.versions, **running, "python": sys.version.split()[0], "system": platform.system()},
            "accelerator": None,
            "provider": self.graph.provider,
            "activations": engine.activations,
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
            "frozen weights, in a mapped file": self.graph_facts.model_bytes - trainable,
            "graph": max(0, self.graph_bytes),
            **{buffer.owner: buffer.bytes for buffer in self.space.buffers},
            "scratch": self.space.scratch_bytes + self.stacks.scratch_bytes,
        }

    def write_bundle(self, directory: Path) -> None:
        bundle_files.write(self.folder, {self.start, self.graph_facts.proved_on}, directory)

    def export(self, directory: Path) -> None:
        from zoplat_devices.onnx.export import Source

        source = Source(self.device, self.spec, notice)
        for name, array in self.weights.items():
            source.arrays[name][...] = array
        source.model.save_pretrained(directory)
        source.loaded.tokenizer.save_pretrained(directory)


def _strategy(engine: Engine, spec: ModelSpec, is_stacked: bool) -> str:
    if engine.strategy == "batched" and not is_stacked:
        raise ZoplatError(
            f"strategy=batched is for adapters; with --tune {spec.tune.name} the graph takes one point at a time. "
            "Leave -o device.strategy=batched out."
        )
    return "batched" if is_stacked and engine.strategy != "sequential" else "sequential"
