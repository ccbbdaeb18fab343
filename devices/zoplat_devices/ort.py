"""ONNX Runtime: causal language models of transformers, exported once, then answered by an inference engine."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from zoplat.blocks import Block
from zoplat.device import Device, Example, MemoryReading, ModelSpec, Row, Session
from zoplat.direction import Direction
from zoplat.errors import ZoplatError
from zoplat.hookspecs import hookimpl
from zoplat.paths import cache_folder

FORMAT = 3  # of the folders; another one has every graph made again
MAKERS = ("torch", "transformers", "peft", "onnx", "onnxscript")
ENGINES = ("onnxruntime", "onnxruntime-gpu")
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Name → what ONNX Runtime calls it, best first."""


@dataclass(frozen=True)
class OnnxRuntime(Device):
    """ONNX Runtime, with causal language models of transformers; float32, or a frozen base in int8.

    Attributes:
        provider: what computes: "cpu", "cuda", or "auto" for the best that is there.
        pack: whether frozen weights are copied into the order in which they are multiplied, which is faster; else they
            stay in their file, which is mapped into memory.
        road: how several losses that are asked together are found: "walk" from point to point; "batch", adapters only,
            by one answer for as many copies of the batch; "auto" takes the latter for adapters.
        threads: of the processor; 0 for all that the process may use.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses"})
    packs: ClassVar[bool] = True

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    pack: bool = False
    road: Literal["auto", "walk", "batch"] = "auto"
    threads: int = 0

    def missing(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return (
                "Device 'onnx' needs onnxruntime, which is not installed: pip install 'zoplat[onnx]', or "
                "'zoplat[onnx-gpu]' for CUDA."
            )
        found = [name for name in ENGINES if _version(name)]
        if len(found) > 1:
            return (
                f"{' and '.join(found)} are both installed and write over each other's files, so neither can be "
                f"relied on: pip uninstall {' '.join(found)}, then install one of them."
            )
        return None

    def open(self, spec: ModelSpec) -> OnnxSession:
        if spec.dtype not in ("auto", "float32"):
            raise ZoplatError(f"Device 'onnx' computes in float32, not in {spec.dtype}. Leave --dtype out.")
        return OnnxSession(self, spec)

    def found(self, spec: ModelSpec) -> tuple[Path, str]:
        """Folder of the graph, and the name of the file in it with what is trained; made where they are not kept."""
        return _made(self, spec)

    def chosen(self) -> list[str]:
        """Providers of ONNX Runtime, best first.

        Raises:
            ZoplatError: the one that was asked for is not there.
        """
        import onnxruntime

        there = onnxruntime.get_available_providers()
        if self.provider == "auto":
            return [name for name in PROVIDERS.values() if name in there]
        if PROVIDERS[self.provider] not in there:
            raise ZoplatError(
                f"provider {self.provider}: this onnxruntime has {', '.join(there)}. Leave -o device.provider out, or "
                "pip install 'zoplat[onnx-gpu]' in the place of onnxruntime."
            )
        return list(dict.fromkeys([PROVIDERS[self.provider], PROVIDERS["cpu"]]))


class OnnxSession(Session):
    """A graph, opened."""

    def __init__(self, device: OnnxRuntime, spec: ModelSpec) -> None:
        from zoplat_devices.fused import space_of
        from zoplat_devices.memory import HostMemory

        self.host, self.device, self.spec = HostMemory(), device, spec
        providers = device.chosen()
        self.folder, self.start = device.found(spec)
        from zoplat_devices.encoding import Encoder
        from zoplat_devices.ort_graph import Facts, Graph, PlainTokenizer
        from zoplat_devices.ort_points import Stacks

        self.told = told = Facts.read(self.folder)
        self.before = self.host.now()
        self.weights = told.arrays(self.folder, told.proved_on)
        self.held = -self.host.now()
        self.graph = Graph(self.folder, self.weights, providers, device.threads or _processors(), device.pack)
        self.held += self.host.now()
        self.encoder = Encoder(PlainTokenizer(self.folder, told.bos), told.limit)
        self.road = _road(device, spec, self.graph.is_stacked)
        parity = {**told.parity, **self._proved()}
        for name, array in told.arrays(self.folder, self.start).items():
            self.weights[name][...] = array
        blocks = [
            device.block(block["name"], self.weights[block["name"]], "float32", block["layer"]) for block in told.blocks
        ]
        self.space = space_of(blocks, spec.seed)
        self.stacks = Stacks(self.graph, self.space, self.weights)
        self.facts = {**self._facts(blocks), "parity": parity}

    def pack(self, directory: Path) -> None:
        from zoplat_devices.ort_bundle import write

        write(self, directory)

    def _proved(self) -> dict[str, Any]:
        """How the graph answers edits now, once none was found to be ignored."""
        from zoplat_devices import ort_points, ort_proof

        rows, where = self.encode([ort_proof.EXAMPLE]), str(self.folder)
        proof = ort_proof.Proof.read(self.told.proof)
        off = proof.check(self.weights, lambda: self.graph.loss(rows), where)
        told = {"edits_off_by": off, "edits_without_effect": proof.unfelt}
        if self.graph.is_stacked:
            told["points_off_by"] = ort_points.proved(self.graph, rows, self.weights, where)
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
            "kernels": type(self.space).__name__,
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

    def branches(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
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
        from zoplat_devices.ort_export import Source

        source = Source(self.device, self.spec, _say)
        for name, array in self.weights.items():
            source.arrays[name][...] = array
        source.model.save_pretrained(directory)
        source.loaded.tokenizer.save_pretrained(directory)


def _made(device: OnnxRuntime, spec: ModelSpec) -> tuple[Path, str]:
    """(folder of the graph, name of the file with what is trained), both made where they are not kept yet."""
    from zoplat_devices.models import DEFAULT, located

    _, identity = located(spec.model or DEFAULT, _say)
    versions = {name: version for name in MAKERS if (version := _version(name))}
    what = [FORMAT, identity, asdict(spec.tune), spec.head, spec.base, versions]
    what += [_version("onnxruntime") or _version("onnxruntime-gpu")] if spec.base != "plain" else []
    digest = sha256(json.dumps(what).encode()).hexdigest()
    folder = cache_folder() / "onnx" / digest[:24]
    start = started(spec)
    if not folder.exists():
        from zoplat_devices.ort_export import export

        _say(f"making an ONNX graph of {spec.model or DEFAULT} once and keeping it in {folder}")
        export(device, spec, folder, start, identity, versions, _say)
    elif not (folder / start).exists():
        from zoplat_devices.ort_export import Source

        Source(device, spec, _say).write_start(folder / start)
    return folder, start


def started(spec: ModelSpec) -> str:
    """Name of the file with what is trained as it begins; adapters begin otherwise with each seed."""
    from zoplat_devices.pytorch import ADAPTERS

    return f"start-{spec.seed}.safetensors" if spec.tune.name in ADAPTERS else "start.safetensors"


def _road(device: OnnxRuntime, spec: ModelSpec, is_stacked: bool) -> str:
    if device.road == "batch" and not is_stacked:
        raise ZoplatError(
            f"road=batch is for adapters; with --tune {spec.tune.name} the graph takes one point at a time. "
            "Leave -o device.road=batch out."
        )
    return "batch" if is_stacked and device.road != "walk" else "walk"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {"onnx": OnnxRuntime()}
