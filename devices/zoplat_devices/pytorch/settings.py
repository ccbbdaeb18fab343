"""The settings of the PyTorch devices, and which of them go together."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Literal

from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.fields import Checked, number

HOW = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of finding a GPU for each module; those of accelerate."""


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
            on batches of up to 128 tokens. "streaming" evaluates layer by layer, for models larger than memory: the
            weights are in files, or beside a GPU in memory of the host.
        side_terms: whether forward passes may add low-rank directions in factors, where that takes less time than to
            write them into the weights; the factors of laws of many columns take much memory.
        state: where methods that keep something for each weight have it, such as momentum or curvature: in "memory"
            beside the weights; in the memory of the "host", read and written there by CUDA's kernels; or on "disk",
            block by block in memory while it is used, on the processor only.
        max_tokens: most tokens of a row, which loses its beginning beyond that; 0 for as many as the model reads.
        threads: of the processor; 0 for all that the process may use.
        tf32: whether CUDA may round the inputs of matrix products to 10 bits.
        compile: whether torch.compile makes the forward pass; for in-place restore and the sequential strategy.
        record: whether CUDA records the moves and forward passes of a step, and replays them, where the model allows it
            and nothing is compiled.
        map: how the layers lie on several GPUs: "auto" or "balanced", evenly; "balanced_low_0", with little on the
            first; "sequential", each filled before the next; or a JSON object of a GPU for each module. Empty for one
            GPU.
    """

    kind: Literal["cpu", "cuda", "mps"] = field(default="cpu", metadata={"setting": False})
    restore: Literal["auto", "in-place", "exact"] = "auto"
    rounding: Literal["auto", "nearest", "stochastic", "master"] = "auto"
    strategy: Literal["auto", "sequential", "batched", "streaming"] = "auto"
    side_terms: bool = True
    state: Literal["memory", "host", "disk"] = "memory"
    max_tokens: int = number(0, at_least=0)
    threads: int = number(0, at_least=0, at_most=4096)
    tf32: bool = False
    compile: bool = False
    record: bool = True
    map: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, kind in (
            ("state", "disk", "cpu"),
            ("state", "host", "cuda"),
            ("map", self.map or None, "cuda"),
        ):
            if getattr(self, name) == value and self.kind != kind:
                raise ZoplatError(f"{name}={value} is for --device {kind}, not '{self.kind}'  (-o device.{name}=…)")
        self.check_map()
        if self.is_streaming and self.kind == "mps":
            raise ZoplatError("strategy=streaming is for --device cpu or cuda, not 'mps'  (-o device.strategy=…)")
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
        """Whether the weights stay in files, or on the host, until a layer runs."""
        return self.strategy == "streaming"

    @property
    def is_windowed(self) -> bool:
        """Whether only some layers are on an accelerator at a time."""
        return self.is_streaming and self.kind == "cuda"

    @property
    def spread(self) -> str | dict[str, int | str]:
        """`map` as a way to find the GPU of each module, or by the name of a module its GPU.

        Raises:
            ZoplatError: it is neither.
        """
        if self.map in HOW or not self.map:
            return self.map
        try:
            found = json.loads(self.map)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not found or not all(isinstance(one, int | str) for one in found.values()):
            raise ZoplatError(
                f"device.map must be {', '.join(HOW)}, or a JSON object of a GPU for each module, such as "
                f'{{"model.layers.0": 0, "model.layers.1": 1}}; got {self.map!r}  (-o device.map=…)'
            )
        return found

    def check_map(self) -> None:
        """Raise ZoplatError where a map of several GPUs can't be, or can't go with the other settings."""
        spread = self.spread
        others = [str(place) for place in spread.values() if not _is_gpu(place)] if isinstance(spread, dict) else []
        if others:
            raise ZoplatError(
                f"device.map places modules on '{others[0]}', from where each forward pass would copy them and lose "
                "what was trained. Give GPUs, as 0 or cuda:0; weights that fit on none are trained by "
                "-o device.strategy=streaming without a map."
            )
        if self.map and self.strategy == "batched":
            raise ZoplatError("strategy=batched takes one GPU. Use -o device.strategy=sequential with device.map.")
        if self.map and self.is_streaming:
            raise ZoplatError("strategy=streaming takes one GPU. Use it without -o device.map.")
        if self.map and self.compile:
            raise ZoplatError("compile=true takes one GPU. Leave it out with -o device.map.")

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


def _is_gpu(place: int | str) -> bool:
    return type(place) is int or re.fullmatch(r"cuda:\d+", str(place)) is not None
