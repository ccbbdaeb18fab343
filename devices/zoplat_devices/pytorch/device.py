"""PyTorch on cpu, cuda and mps: any language model of transformers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from zoplat.core.device import Device, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat.hookspecs import hookimpl

if TYPE_CHECKING:
    pass


COMPILER = "inductor"
"""Of torch.compile."""


@dataclass(frozen=True)
class PyTorch(Device):
    """PyTorch, with models of transformers.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        restore: "in-place" writes probes into the weights and takes them back; "exact" forms the probed weights of
            a layer while it runs, so that the weights stay at θ; "auto" is exact for 16-bit weights.
        rounding: of updates to 16-bit weights: "nearest"; "stochastic", up or down by chance, so that small ones
            add up; "master", from a float32 copy of what is trained. The latter two need exact restore; "auto" is
            stochastic where restore is exact.
        strategy: how several losses that are asked together are found: "sequential" from point to point; "batched", by one
            forward pass over as many copies of the batch; "auto" takes the latter for adapters, and for low-rank
            directions on batches of up to 128 tokens. "streaming" keeps the weights in files and goes layer by layer, for
            models larger than memory; on the processor only.
        state: where methods that keep something for each weight have it, such as momentum or curvature: in "memory", or
            on "disk", block by block in memory while it is used; the latter on the processor only.
        threads: of the processor; 0 for all that the process may use.
        tf32: whether CUDA may round the inputs of matrix products to 10 bits.
        compile: whether torch.compile makes the forward pass; for in-place restore, walking.
        graphs: whether CUDA records the forward pass of each shape of batch and plays it again; likewise.
    """

    answers: ClassVar[frozenset[str]] = frozenset(
        {"losses", "jvp", "gradient", "input norms", "generation", "features"}
    )

    kind: Literal["cpu", "cuda", "mps"] = field(default="cpu", metadata={"setting": False})
    restore: Literal["auto", "in-place", "exact"] = "auto"
    rounding: Literal["auto", "nearest", "stochastic", "master"] = "auto"
    strategy: Literal["auto", "sequential", "batched", "streaming"] = "auto"
    state: Literal["memory", "disk"] = "memory"
    threads: int = 0
    tf32: bool = False
    compile: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        for name, value in (("strategy", "streaming"), ("state", "disk")):
            if getattr(self, name) == value and self.kind != "cpu":
                raise ZoplatError(f"{name}={value} is for --device cpu, not '{self.kind}'  (-o device.{name}=…)")
        if self.strategy == "streaming" and self.restore == "in-place":
            raise ZoplatError(
                "strategy=streaming never writes a probe into the weights. Leave -o device.restore=in-place out."
            )
        if self.strategy == "streaming" and self.rounding == "master":
            raise ZoplatError(
                "strategy=streaming keeps no copy of the weights in memory, which rounding=master would need. "
                "Use -o device.rounding=stochastic, or --dtype float32."
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
        self._check_forward()
        from zoplat_devices.pytorch.session import PyTorchSession

        return PyTorchSession(self, spec)

    def _check_forward(self) -> None:
        """Raise ZoplatError where a forward pass can't be made as it is asked for."""
        if self.graphs and self.kind != "cuda":
            raise ZoplatError(
                f"-o device.graphs=true records CUDA graphs, and device '{self.kind}' has none. Leave it out, or use "
                "--device cuda."
            )
        if self.graphs and self.compile:
            raise ZoplatError(
                "-o device.graphs=true and -o device.compile=true don't go together. Leave one of them out."
            )
        if (asked := _fixed_pass(self)) and self.strategy in ("batched", "streaming"):
            raise ZoplatError(
                f"{asked} can't follow strategy={self.strategy}, which changes what layers do. Use -o device.strategy=sequential."
            )


def _fixed_pass(device: PyTorch) -> str:
    """The setting that has the forward pass made beforehand; empty where none does."""
    return "-o device.compile=true" if device.compile else "-o device.graphs=true" if device.graphs else ""


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {kind: PyTorch(kind) for kind in ("cpu", "cuda", "mps")}
