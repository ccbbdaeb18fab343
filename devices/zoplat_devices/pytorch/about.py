"""Facts about a model and its machine, for the record of a run."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.parameters import address
from zoplat_devices.pytorch.precision import dtypes_of


def tensors(model: Any) -> list[Any]:
    """All weights and buffers of a model, once each; quantised ones as what they consist of: values and scales."""
    found: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        held = tensor.data
        names = held.__tensor_flatten__()[0] if hasattr(held, "__tensor_flatten__") else []
        found |= {address(part): part for part in [getattr(held, name) for name in names] or [held]}
    return [*found.values()]


def size(model: Any) -> int:
    """Bytes of all weights; those that several modules share count once."""
    return sum(int(tensor.nbytes) for tensor in tensors(model))


def of_model(loaded: Loaded, model: Any) -> dict[str, Any]:
    """What tells a model from others, and the bytes of the one that runs."""
    return {
        "model": loaded.name,
        "model_identity": loaded.identity,
        "model_digest": loaded.digest,
        "head": loaded.head,
        "model_bytes": size(model),
    }


def of_space(space: ParameterSpace) -> dict[str, Any]:
    """What is trained, in which precision, and by which kernels."""
    return {
        "trainable_parameters": space.size,
        "trainable_dtype": ", ".join(dtypes_of(space.blocks)),
        "restore": space.restore,
        "rounding": space.rounding,
        "kernels": space.backend_name,
    }


def versions() -> dict[str, str]:
    """Versions of python, the system, and the packages that results may depend on."""
    names = ("zoplat", "torch", "transformers", "tokenizers", "peft", "numpy", "safetensors")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "python": ".".join(str(part) for part in sys.version_info[:3]), "system": platform.system()}


def accelerator(kind: str) -> dict[str, Any] | None:
    """Name, driver and memory of the GPU, by NVML."""
    if kind != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "name": str(pynvml.nvmlDeviceGetName(handle)),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        }
    except pynvml.NVMLError:
        return None
