"""The part of a bundle that is ONNX Runtime's: graph, kernels and requirements, written here and opened there."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.kernels import native
from zoplat_devices.onnx.device import OnnxRuntime, started
from zoplat_devices.onnx.session import OnnxSession
from zoplat_devices.pytorch.session import ADAPTERS

FOLDER, KERNELS, REQUIREMENTS = "graph", "kernels", "requirements.txt"
ADAPTER, WEIGHTS = "adapter.onnx_adapter", "weights.safetensors"


@dataclass(frozen=True)
class OnnxBundle(OnnxRuntime):
    """ONNX Runtime, from a bundle that was checked.

    Attributes:
        bundle: its folder.
    """

    makes_bundles: ClassVar[bool] = False

    bundle: Path = field(default=Path(), metadata={"setting": False})

    @classmethod
    def of(cls, device: OnnxRuntime, bundle: Path) -> OnnxBundle:
        """With the settings of another one."""
        settings: dict[str, Any] = {one.name: getattr(device, one.name) for one in fields(device)}
        return cls(**settings | {"bundle": bundle})

    def missing(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return f"onnxruntime is not installed: pip install --no-deps -r {self.bundle / REQUIREMENTS}"
        return super().missing()

    def open(self, spec: ModelSpec) -> BundleSession:
        kernels = native.for_this_machine(self.bundle / KERNELS)
        if kernels and not native.compilers():
            os.environ.setdefault("ZOPLAT_KERNELS", str(kernels))
        return BundleSession(self, spec)

    def found(self, spec: ModelSpec) -> tuple[Path, str]:
        folder, start = self.bundle / FOLDER, started(spec)
        if not (folder / start).exists():
            raise ZoplatError(f"{self.bundle} begins from other weights: it has no {start}. Pack with the same --seed.")
        return folder, start


class BundleSession(OnnxSession):
    """A graph of a bundle, opened."""

    def export(self, directory: Path) -> None:
        """What is trained as safetensors; of an adapter, in ONNX Runtime's own format too."""
        directory.mkdir(parents=True, exist_ok=True)
        self.write(directory / WEIGHTS, self.weights)
        if self.spec.tune.name in ADAPTERS:
            from onnxruntime import AdapterFormat

            adapter = AdapterFormat()
            adapter.set_adapter_version(1)
            adapter.set_model_version(1)
            adapter.set_parameters(self.graph.held)
            adapter.export_adapter(str((directory / ADAPTER).absolute()))


def write(session: OnnxSession, directory: Path) -> None:
    """The graph with the one start that is asked for, kernels for boards, and what has to be installed there."""
    (directory / FOLDER).mkdir()
    for path in session.folder.iterdir():
        if not path.name.startswith("start") or path.name in (session.start, session.told.proved_on):
            shutil.copyfile(path, directory / FOLDER / path.name)
    text = resources.files("zoplat_devices.edge").joinpath("edge-requirements.txt").read_bytes()
    (directory / REQUIREMENTS).write_bytes(text)
    native.for_boards(directory / KERNELS)
