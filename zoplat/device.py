"""What a runtime offers: a model opened for training by forward passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from zoplat.blocks import Block, Part
from zoplat.direction import Direction
from zoplat.errors import ZoplatError
from zoplat.sampler import Sampler
from zoplat.space import ParameterSpace

Loss = Literal["options", "tokens"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True)
class Example:
    """One row of a task as text.

    Attributes:
        prompt: what the model reads.
        options: continuations to choose from, leading blank included; of a generation, the answer to train towards.
        label: index of the right one.
        answers: all texts that count as right; the right option when empty.
        suffix: what follows the option, for models that read both sides of it.
        loss: cross-entropy over the scores of the "options", or of the "tokens" of the right one.
        score: of an option: the "mean" log-probability of its tokens, or their "sum".
    """

    prompt: str
    options: tuple[str, ...]
    label: int
    answers: tuple[str, ...] = ()
    suffix: str = ""
    loss: Loss = "options"
    score: Literal["mean", "sum"] = "mean"

    @property
    def right(self) -> tuple[str, ...]:
        """All texts that count as right, without blanks around them."""
        return tuple(text.strip() for text in self.answers or (self.options[self.label],))

    def best(self, scores: Sequence[float]) -> str:
        """The option of the highest score, the first of equals, without blanks around it."""
        return self.options[scores.index(max(scores))].strip()

    @property
    def is_open(self) -> bool:
        """Whether the model writes the answer, having nothing to choose from."""
        return len(self.options) == 1


@dataclass(frozen=True)
class Row:
    """An example as a session encoded it.

    Attributes:
        example: where it came from.
        length: tokens of its longest sequence; rows of similar length share a batch.
        tokens: the session's own encoding.
        weight: what it counts for in the mean loss of a batch: 1, or the tokens of its right option.
    """

    example: Example
    length: int
    tokens: Any
    weight: int = 1


Base = Literal["plain", "int8"]
Head = Literal["auto", "causal", "masked", "seq2seq", "classifier"]
"""What a model makes of a text: its continuation, a word in its middle, an answer to it, or its class."""


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


@dataclass(frozen=True)
class MemoryReading:
    """Bytes in use now, and the most since the last `reset_peak`.

    Attributes:
        host, host_peak: resident set of the process.
        device, device_peak: the accelerator's allocator, or None without one.
    """

    host: int
    host_peak: int
    device: int | None = None
    device_peak: int | None = None


class Session(ABC):
    """An opened model.

    Attributes:
        space: its trainable weights.
        road: how several losses that are asked together are found unless more is known: "walk", "batch" or "stream".
        head: what the model makes of a text.
        facts: model, dtype, restore, trainable_parameters, model_bytes, versions, threads, …: plain values.
        ledger: bytes by owner of what the session itself holds, such as its weights.
    """

    space: ParameterSpace
    road: str = "walk"
    head: Head = "causal"
    facts: dict[str, Any]

    def road_along(self, law: Sampler | None, tokens: float) -> str:
        """The road for directions of a law and batches of about so many tokens."""
        return self.road

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenise; raises ZoplatError naming the example that can't be."""

    @abstractmethod
    def forward(self, rows: Sequence[Row]) -> Any:
        """Mean loss of a batch at the weights as they stand, in float32 or better. Counts nothing.

        A float, or an array of one float64 that the device is still at work on: `float()` waits for it.
        """

    def branches(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """Mean loss of a batch at θ + d for each d by one forward pass; the arrays hold θ and are left alone.

        Where the road is "stream", a block is settled when it is first met.
        """
        raise NotImplementedError

    def jvp(self, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        """Mean loss of a batch at θ and its derivative along a direction, by forward-mode differentiation."""
        raise NotImplementedError

    def gradient(self, rows: Sequence[Row], part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        """Mean loss of a batch at θ and its gradient by block of a part; see `Oracle.gradient`."""
        raise NotImplementedError

    def input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """By block, the norm over a batch of every input of the linear layers that the session knows."""
        raise NotImplementedError

    @abstractmethod
    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row, in float32 or better; one forward pass."""

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        """The most probable text after each prompt, token by token: at most so many, up to the first `stop`."""
        raise NotImplementedError

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        """What the last layer says at the last token of each prompt; one forward pass."""
        raise NotImplementedError

    def chat(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as the turns of a user, in the form the model was taught; raises ZoplatError if it was not."""
        raise ZoplatError(f"{self.facts['model']} has no chat template. Leave --template out.")

    @abstractmethod
    def memory(self) -> MemoryReading:
        """Bytes now and at peak."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Start a new peak for the next `memory`."""

    @abstractmethod
    def ledger(self) -> dict[str, int]:
        """Bytes by owner of all long-lived arrays and libraries that the session knows of."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 of the trainable arrays' bytes, in registration order, as stored."""

    @abstractmethod
    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        """Write named arrays of this device to a safetensors file."""

    @abstractmethod
    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        """Read a file made by `write` into the same named arrays, in place."""

    @abstractmethod
    def export(self, directory: Path) -> None:
        """Write the model at θ in the form other programs load: a checkpoint or an adapter, and a tokenizer."""

    def pack(self, directory: Path) -> None:
        """Write into a bundle what opens this model again on a board; of devices that say `packs`."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Any]:
        """The trainable arrays by block name."""
        return {block.name: block.array for block in self.space.blocks}


class Device(ABC):
    """A runtime that opens models. A frozen dataclass whose fields are its settings; cheap to construct.

    Attributes:
        answers: what its sessions answer; a subset of {"losses", "jvp", "gradient", "input norms", "generation",
            "features"}.
        takes_models: whether `--model` means something to it; else it has one of its own.
        packs: whether its sessions can be written into a bundle.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses"})
    takes_models: ClassVar[bool] = True
    packs: ClassVar[bool] = False

    @property
    def priority(self) -> int | None:
        """Rank for `--device auto`, higher first; None keeps it out of that choice."""
        return None

    @abstractmethod
    def missing(self) -> str | None:
        """Why this device can't be used here, with what to do; None when it can."""

    @abstractmethod
    def open(self, spec: ModelSpec) -> Session:
        """Load a model, choose its trainable blocks, get ready to answer.

        Raises:
            ZoplatError: the model can't be found or read, or nothing in it is trainable.
        """

    def block(self, name: str, array: Any, dtype: str, layer: int | None = None) -> Block:
        """A block as every device makes it: matrices decay, vectors don't; more dimensions are flattened."""
        if len(array.shape) != 1:
            array = array.reshape(array.shape[0], -1) if len(array.shape) else array.reshape(1)
        return Block(name, array, dtype, layer, decays=len(array.shape) == 2)
