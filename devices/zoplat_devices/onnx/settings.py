"""How ONNX Runtime computes: plain values that a session is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from zoplat.core.errors import ZoplatError

Provider: TypeAlias = Literal["auto", "cpu", "cuda"]
Strategy: TypeAlias = Literal["auto", "sequential", "batched"]
Activations: TypeAlias = Literal["float32", "int8"]

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Name of a provider → its name in ONNX Runtime, best first."""


@dataclass(frozen=True)
class Engine:
    """How a graph is run.

    Attributes:
        providers: execution providers of ONNX Runtime, best first.
        threads: of the processor.
        prepack: whether frozen weights are copied into the layout that matrix products read.
        strategy: how several losses are evaluated; "auto" for the best that a graph allows.
        activations: what the inputs of quantised products are rounded to.
    """

    providers: tuple[str, ...]
    threads: int
    prepack: bool
    strategy: Strategy
    activations: Activations


def providers_for(name: Provider) -> tuple[str, ...]:
    """Execution providers of ONNX Runtime, best first.

    Raises:
        ZoplatError: this onnxruntime does not have that provider.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if name == "auto":
        return tuple(known for known in PROVIDERS.values() if known in available)
    if PROVIDERS[name] not in available:
        raise ZoplatError(
            f"provider {name}: this onnxruntime has {', '.join(available)}. Leave -o device.provider out, or "
            "pip install 'zoplat[onnx-gpu]' in the place of onnxruntime."
        )
    return tuple(dict.fromkeys([PROVIDERS[name], PROVIDERS["cpu"]]))
