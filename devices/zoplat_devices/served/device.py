"""Served: a model on an inference server such as vLLM; LoRA adapters are trained, and nothing else is here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import ClassVar

from zoplat.core.device import Device, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat.hookspecs import hookimpl
from zoplat_devices.served.settings import ServedSettings


@dataclass(frozen=True)
class Served(ServedSettings):
    """A model on an inference server such as vLLM, which is sent LoRA adapters and asked for log-probabilities."""

    answers: ClassVar[frozenset[str]] = frozenset({"losses", "row losses", "generation"})

    def missing(self) -> str | None:
        for name in ("httpx", "torch", "transformers", "peft"):
            if importlib.util.find_spec(name) is None:
                return f"Device 'served' needs {name}, which is not installed: pip install {name}."
        return None

    def open(self, spec: ModelSpec) -> Session:
        if spec.tune.name != "lora":
            raise ZoplatError(
                f"Device 'served' trains LoRA adapters, which servers load as they run, not --tune {spec.tune.name}. "
                "Use --tune lora."
            )
        if spec.dtype not in ("auto", "float32"):
            raise ZoplatError(
                f"Device 'served' keeps adapters in float32, not in {spec.dtype}; the server has its own precision. "
                "Leave --dtype out."
            )
        if spec.base != "plain":
            raise ZoplatError(
                f"--base {spec.base}: frozen weights are the server's. Start it with its own quantisation."
            )
        from zoplat_devices.served.session import ServedSession

        return ServedSession(self, spec)


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {"served": Served()}
