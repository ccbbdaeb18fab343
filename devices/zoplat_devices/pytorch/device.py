"""PyTorch on cpu, cuda and mps: any language model of transformers."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from zoplat.core.device import Device, Reader, Rehearsal, Session
from zoplat.core.exchange import Exchange
from zoplat.core.model_spec import ModelSpec
from zoplat.hookspecs import hookimpl
from zoplat_devices.pytorch.settings import PyTorchSettings


@dataclass(frozen=True)
class PyTorch(PyTorchSettings):
    """PyTorch, with models of transformers."""

    answers: ClassVar[frozenset[str]] = frozenset(
        {"losses", "row losses", "jvp", "gradient", "input norms", "input directions"}
        | {"generation", "features", "text loss"}
    )

    @property
    def summary(self) -> str:
        return f"PyTorch on {self.kind}, with any language model of transformers"

    @property
    def priority(self) -> int:
        return ("cpu", "mps", "cuda").index(self.kind)

    def missing(self) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return f"Device '{self.kind}' needs torch, which is not installed: pip install torch."
        import torch

        present = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }[self.kind]
        return None if present else f"torch {torch.__version__} finds no '{self.kind}' here. Use --device cpu."

    def open(self, spec: ModelSpec) -> Session:
        self.check_forward()
        from zoplat_devices.pytorch.session import PyTorchSession

        return PyTorchSession(self, spec)

    def reader(self, spec: ModelSpec, fetches: bool = False) -> Reader | None:
        self.check_forward()
        from zoplat_devices.pytorch.reader import text_reader

        return text_reader(self, spec, fetches)

    def exchange(self, seconds: float) -> Exchange | None:
        from zoplat_devices.pytorch.exchange import TorchExchange

        return TorchExchange(self.kind, seconds)

    def rehearse(self, spec: ModelSpec, reader: Reader | None = None) -> Rehearsal | None:
        self.check_forward()
        from zoplat_devices.pytorch.reader import TextReader
        from zoplat_devices.pytorch.rehearsal.session import RehearsalSession

        return RehearsalSession(self, spec, reader if isinstance(reader, TextReader) else None)

    def convert(self, spec: ModelSpec) -> None:
        from zoplat_devices.memory import trim
        from zoplat_devices.pytorch.quiet import notice
        from zoplat_devices.pytorch.sources import DEFAULT, is_converted, locate

        name = spec.model or DEFAULT
        if not is_converted(name):
            locate(name, notice)
            trim()

    def sparing(self) -> AbstractContextManager[None]:
        from zoplat_devices.pytorch.limits import files_paged_out

        return files_paged_out()

    def within(self, limit: int) -> AbstractContextManager[str]:
        from zoplat_devices.pytorch.limits import within

        return within(self.kind, limit, on_all=bool(self.map))


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {kind: PyTorch(kind) for kind in ("cpu", "cuda", "mps")}
