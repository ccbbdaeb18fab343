"""Which model to open, which of its weights to train, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoplat.core.fields import Checked, number

Base = Literal["plain", "int8", "int4"]
"""How the weights of linear layers are stored: as they are, or quantised to 8 or 4 bits."""
Head = Literal["auto", "causal", "masked", "seq2seq", "classifier"]
"""What a model predicts from a text: the next token, a masked token, a target sequence, or a class."""
ADAPTERS = ("lora", "dora", "ia3", "prefix", "prompt")
"""Names of tunings that train new weights beside a frozen model."""
VIRTUAL = ("prefix", "prompt")
"""Those of them that train virtual tokens."""
PACKED = ("scales", "codes")
"""Names of tunings of weights that are packed in 4 bits."""


@dataclass(frozen=True)
class Tuning(Checked):
    """Which weights are trained.

    Attributes:
        name: "full"; an adapter: "lora", "dora", "ia3", "prefix" or "prompt"; a group of the model's own weights:
            "bitfit" (biases), "norms" or "head"; of weights in 4 bits, the "scales" of groups or the "codes"; or a
            regular expression that finds the names of the parameters.
        rank: r of LoRA's factors.
        alpha: LoRA's scale is alpha / rank.
        targets: for lora, dora and ia3, a regular expression over the names of linear layers; empty for peft's own.
        tokens: virtual tokens of prefix and prompt.
        start: initial values of a prefix or a prompt: "random", or computed from a real "text".
    """

    name: str = "full"
    rank: int = number(8, at_least=1)
    alpha: int = number(16, at_least=1)
    targets: str = ""
    tokens: int = number(5, at_least=1)
    start: Literal["text", "random"] = "text"

    @property
    def is_adapter(self) -> bool:
        """Whether the trained weights are added to the model, whose own ones stay as they are."""
        return self.name in ADAPTERS

    @property
    def virtual_tokens(self) -> int:
        """Tokens that take the place of as many of a text."""
        return self.tokens if self.name in VIRTUAL else 0


@dataclass(frozen=True)
class ModelSpec:
    """All that a device needs to open a model.

    Attributes:
        model: hub id, folder, .gguf file, or packaged:NAME; None for the device's own small default.
        tune: the trainable weights.
        dtype: "float32", "bfloat16", "float16", or "auto" for the device's choice.
        seed: of the initial weights of an adapter or a classification head.
        head: what the model predicts; "auto" for what its configuration says.
        classes: number of classes of the task, for a classification head; 0 where the task has none.
        base: weights of linear layers "plain"; as "int8" with one scale per row; or packed as "int4" with a scale and a
            zero for each group of columns.
        class_names: for each class, the names it may have in a checkpoint: its own and its word.
    """

    model: str | None
    tune: Tuning
    dtype: str
    seed: int
    head: Head = "auto"
    classes: int = 0
    base: Base = "plain"
    class_names: tuple[tuple[str, ...], ...] = ()
