"""The settings of the PyTorch devices, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.fields import Checked, number


@dataclass(frozen=True)
class PyTorchSettings(Checked, Device):
    """How a model is evaluated, perturbed and updated by PyTorch.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        restore: "in-place" writes each perturbation into the weights and subtracts it again; "exact" forms the
            perturbed weights of a layer while it runs, so that the stored weights stay at θ; "auto" is exact for
            16-bit weights.
        rounding: of updates to 16-bit weights: "nearest"; "stochastic", up or down at random with the result as
            expected value, so that small updates add up; "master", from a float32 copy of what is trained. The latter
            two need exact restore; "auto" is stochastic where restore is exact.
        strategy: how several losses are evaluated: "sequential", one point after the other; "batched", by one forward
            pass over as many copies of the batch; "auto" chooses the latter for adapters, and for low-rank directions
            on batches of up to 128 tokens. "streaming" keeps the weights in files and evaluates layer by layer, for
            models larger than memory; on the processor only.
        state: where methods that keep something for each weight have it, such as momentum or curvature: in "memory"
            beside the weights; in the memory of the "host", read and written there by CUDA's kernels; or on "disk",
            block by block in memory while it is used, on the processor only.
        max_tokens: most tokens of a row, which loses its beginning beyond that; 0 for as many as the model reads.
        threads: of the processor; 0 for all that the process may use.
        tf32: whether CUDA may round the inputs of matrix products to 10 bits.
        compile: whether torch.compile makes the forward pass; for in-place restore and the sequential strategy.
        record: whether CUDA records the moves and forward passes of a step, and replays them, where the model allows it
            and nothing is compiled.
    """

    kind: Literal["cpu", "cuda", "mps"] = field(default="cpu", metadata={"setting": False})
    restore: Literal["auto", "in-place", "exact"] = "auto"
    rounding: Literal["auto", "nearest", "stochastic", "master"] = "auto"
    strategy: Literal["auto", "sequential", "batched", "streaming"] = "auto"
    state: Literal["memory", "host", "disk"] = "memory"
    max_tokens: int = number(0, at_least=0)
    threads: int = 0
    tf32: bool = False
    compile: bool = False
    record: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, kind in (
            ("strategy", "streaming", "cpu"),
            ("state", "disk", "cpu"),
            ("state", "host", "cuda"),
        ):
            if getattr(self, name) == value and self.kind != kind:
                raise ZoplatError(f"{name}={value} is for --device {kind}, not '{self.kind}'  (-o device.{name}=…)")
        if self.is_streaming and self.restore == "in-place":
            raise ZoplatError(
                "strategy=streaming never writes a perturbation into the weights. Leave -o device.restore=in-place out."
            )
        if self.is_streaming and self.rounding == "master":
            raise ZoplatError(
                "strategy=streaming keeps no copy of the weights in memory, which rounding=master would need. "
                "Use -o device.rounding=stochastic, or --dtype float32."
            )

    @property
    def is_streaming(self) -> bool:
        """Whether the weights stay in files."""
        return self.strategy == "streaming"

    @property
    def static_forward(self) -> str:
        """The option that compiles the forward pass; empty where the model runs eagerly."""
        return "-o device.compile=true" if self.compile else ""

    def check_forward(self) -> None:
        """Raise ZoplatError where these settings exclude each other in a forward pass."""
        if self.static_forward and self.strategy in ("batched", "streaming"):
            raise ZoplatError(
                f"{self.static_forward} can't follow strategy={self.strategy}, which changes what layers do. "
                "Use -o device.strategy=sequential."
            )
