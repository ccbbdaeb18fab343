"""A model in a bundle, opened on a board by ONNX Runtime without torch."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.kernels import native
from zoplat_devices.memory import HostMemory, give_back, trim
from zoplat_devices.onnx.bundle_files import GRAPH, KERNELS, REQUIREMENTS
from zoplat_devices.onnx.device import OnnxRuntime
from zoplat_devices.onnx.kept_graph import KeptGraph, start_name
from zoplat_devices.onnx.session import OnnxSession

ADAPTER, WEIGHTS = "adapter.onnx_adapter", "weights.safetensors"
"""Files that an export from a bundle writes."""
GIVEN_BACK = 1 << 18
"""Bytes from which activations are given back to the system once they are freed: a board has no memory to spare."""


@dataclass(frozen=True)
class OnnxBundle(OnnxRuntime):
    """ONNX Runtime, with the model of a bundle whose files were checked.

    Attributes:
        bundle: its folder.
    """

    makes_bundles: ClassVar[bool] = False

    bundle: Path = field(default=Path(), metadata={"setting": False})

    @classmethod
    def of(cls, device: OnnxRuntime, bundle: Path) -> OnnxBundle:
        """With the settings of another device."""
        settings: dict[str, Any] = {one.name: getattr(device, one.name) for one in fields(device)}
        return cls(**settings | {"bundle": bundle})

    def missing(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return f"onnxruntime is not installed: pip install --no-deps -r {self.bundle / REQUIREMENTS}"
        return super().missing()

    def open(self, spec: ModelSpec) -> BundleSession:
        kernels = native.built_for_this_machine(self.bundle / KERNELS)
        if kernels and not native.compilers():
            os.environ.setdefault("ZOPLAT_KERNELS", str(kernels))
        give_back(above=GIVEN_BACK)
        host, engine = HostMemory(), self.engine()
        session = BundleSession(self, spec, engine, self._graph(spec), host)
        trim()  # reading the tokenizer and the graph leaves some 20 MiB of freed memory
        return session

    def _graph(self, spec: ModelSpec) -> KeptGraph:
        """The graph in the bundle.

        Raises:
            ZoplatError: the bundle has no initial values for this seed.
        """
        kept = KeptGraph(self.bundle / GRAPH, start_name(spec))
        if not (kept.folder / kept.start).exists():
            raise ZoplatError(
                f"{self.bundle} begins from other weights: it has no {kept.start}. Pack with the same --seed."
            )
        return kept


class BundleSession(OnnxSession):
    """The model of a bundle, opened."""

    def export(self, directory: Path) -> None:
        """Write the trained weights as safetensors, and those of an adapter in ONNX Runtime's own format too."""
        directory.mkdir(parents=True, exist_ok=True)
        self.write(directory / WEIGHTS, self.weights)
        if self.spec.tune.is_adapter:
            self.graph.write_adapter(directory / ADAPTER)
