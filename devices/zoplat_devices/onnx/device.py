"""ONNX Runtime: causal language models of transformers, exported to a graph once and then run by it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import ClassVar

from zoplat.core.device import Device, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.fields import Checked, number
from zoplat.core.model_spec import ModelSpec
from zoplat.hookspecs import hookimpl
from zoplat_devices.onnx.settings import Activations, Engine, Provider, Strategy, providers_for
from zoplat_devices.onnx.versions import ENGINES, installed


@dataclass(frozen=True)
class OnnxRuntime(Checked, Device):
    """ONNX Runtime, with causal language models of transformers; float32, or a frozen base in int8.

    Attributes:
        provider: what computes: "cpu", "cuda", or "auto" for the best that is available.
        prepack: whether frozen weights are copied in memory into the layout that matrix products read, which is faster;
            else they stay in their file, which is mapped into memory.
        strategy: how several losses are evaluated: "sequential", one point after the other; "batched", for adapters
            only, by one run of the graph for as many copies of the batch; "auto" chooses the latter for adapters.
        activations: "int8" rounds what the matrices of --base int8 are multiplied with to 8 bits too, for processors
            with instructions for integers. A model whose slopes it disturbs too much is refused. Weights are prepacked.
        threads: of the processor; 0 for all that the process may use.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses", "row losses"})
    makes_bundles: ClassVar[bool] = True

    provider: Provider = "auto"
    prepack: bool = False
    strategy: Strategy = "auto"
    activations: Activations = "float32"
    threads: int = number(0, at_least=0, at_most=4096)

    def missing(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return (
                "Device 'onnx' needs onnxruntime, which is not installed: pip install 'zoplat[onnx]', or "
                "'zoplat[onnx-gpu]' for CUDA."
            )
        found = [*installed(ENGINES)]
        if len(found) > 1:
            return (
                f"{' and '.join(found)} are both installed and write over each other's files, so neither can be "
                f"relied on: pip uninstall {' '.join(found)}, then install one of them."
            )
        return None

    def open(self, spec: ModelSpec) -> Session:
        if spec.dtype not in ("auto", "float32"):
            raise ZoplatError(f"Device 'onnx' computes in float32, not in {spec.dtype}. Leave --dtype out.")
        if self.activations == "int8" and spec.base != "int8":
            raise ZoplatError("activations=int8 is for products with a base of integers: add --base int8.")
        from zoplat_devices.memory import HostMemory
        from zoplat_devices.onnx.kept_graph import kept_graph
        from zoplat_devices.onnx.session import OnnxSession

        host, engine = HostMemory(), self.engine()
        return OnnxSession(self, spec, engine, kept_graph(self, spec), host)

    def engine(self) -> Engine:
        """The settings as plain values, with what is "auto" or 0 replaced by what this machine has.

        Raises:
            ZoplatError: this onnxruntime does not have the provider.
        """
        threads = self.threads or _processors()
        return Engine(providers_for(self.provider), threads, self.prepack, self.strategy, self.activations)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {"onnx": OnnxRuntime()}
