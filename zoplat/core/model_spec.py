"""Which model, which of its weights are trained, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoplat.core.errors import ZoplatError

Base = Literal["plain", "int8"]


Head = Literal["auto", "causal", "masked", "seq2seq", "classifier"]
"""What a model makes of a text: its continuation, a word in its middle, an answer to it, or its class."""

ADAPTERS = ("lora", "dora", "ia3", "prefix", "prompt")
"""Names of tunings that train new weights beside a frozen model."""


@dataclass(frozen=True)
class Tuning:
    """Which weights move.

    Attributes:
        name: "full"; an adapter: "lora", "dora", "ia3", "prefix" or "prompt"; a group of the model's own weights:
            "bitfit" (biases), "norms" or "head"; or a regular expression that finds the names of the parameters.
        rank: r of LoRA's factors.
        alpha: LoRA's scale is alpha / rank.
        targets: for lora, dora and ia3, a regular expression over the names of linear layers; empty for peft's own.
        tokens: virtual tokens of prefix and prompt.
        start: where a prefix begins: at "random" keys and values or at those of a real "text"; where a prompt does.
    """

    name: str = "full"
    rank: int = 8
    alpha: int = 16
    targets: str = ""
    tokens: int = 5
    start: Literal["text", "random"] = "text"

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "tokens"):
            if getattr(self, name) < 1:
                raise ZoplatError(f"{name} must be at least 1, got {getattr(self, name)}  (-o tune.{name}=…)")

    @property
    def is_adapter(self) -> bool:
        """Whether new weights are trained beside a frozen model."""
        return self.name in ADAPTERS


@dataclass(frozen=True)
class ModelSpec:
    """Which model, which of its weights, in which precision.

    Attributes:
        model: hub id, folder, .gguf file, or packaged:NAME; None for the device's own small default.
        tune: the trainable weights.
        dtype: "float32", "bfloat16", "float16", or "auto".
        seed: of the run; initial adapter weights come from it.
        head: what the model makes of a text: "auto" for what its configuration says.
        classes: of the task, for a classification head.
        base: frozen weights "plain", or of linear layers as "int8" with one scale a row.
    """

    model: str | None
    tune: Tuning
    dtype: str
    seed: int
    head: Head = "auto"
    classes: int = 0
    base: Base = "plain"
