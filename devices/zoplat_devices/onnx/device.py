"""ONNX Runtime: causal language models of transformers, exported once, then answered by an inference engine."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

from zoplat.core.device import Device, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
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
        strategy: how several losses that are asked together are found: "sequential" from point to point; "batched", adapters only,
            by one answer for as many copies of the batch; "auto" takes the latter for adapters.
        threads: of the processor; 0 for all that the process may use.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses"})
    makes_bundles: ClassVar[bool] = True

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    pack: bool = False
    strategy: Literal["auto", "sequential", "batched"] = "auto"
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

    def open(self, spec: ModelSpec) -> Session:
        if spec.dtype not in ("auto", "float32"):
            raise ZoplatError(f"Device 'onnx' computes in float32, not in {spec.dtype}. Leave --dtype out.")
        from zoplat_devices.onnx.session import OnnxSession

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


def _made(device: OnnxRuntime, spec: ModelSpec) -> tuple[Path, str]:
    """(folder of the graph, name of the file with what is trained), both made where they are not kept yet."""
    from zoplat_devices.pytorch.sources import DEFAULT, located

    _, identity = located(spec.model or DEFAULT, _say)
    versions = {name: version for name in MAKERS if (version := _version(name))}
    what = [FORMAT, identity, asdict(spec.tune), spec.head, spec.base, versions]
    what += [_version("onnxruntime") or _version("onnxruntime-gpu")] if spec.base != "plain" else []
    digest = sha256(json.dumps(what).encode()).hexdigest()
    folder = cache_folder() / "onnx" / digest[:24]
    start = started(spec)
    if not folder.exists():
        from zoplat_devices.onnx.export import export

        _say(f"making an ONNX graph of {spec.model or DEFAULT} once and keeping it in {folder}")
        export(device, spec, folder, start, identity, versions, _say)
    elif not (folder / start).exists():
        from zoplat_devices.onnx.export import Source

        Source(device, spec, _say).write_start(folder / start)
    return folder, start


def started(spec: ModelSpec) -> str:
    """Name of the file with what is trained as it begins; adapters begin otherwise with each seed."""
    return f"start-{spec.seed}.safetensors" if spec.tune.is_adapter else "start.safetensors"


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
