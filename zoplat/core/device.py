"""What a runtime offers: a model opened for training by forward passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from zoplat.core.blocks import Block, Part
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import Head, ModelSpec
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace


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
        strategy: how several losses that are asked together are found unless more is known: "sequential", "batched" or "streaming".
        head: what the model makes of a text.
        facts: model, dtype, restore, trainable_parameters, model_bytes, versions, threads, …: plain values.
        ledger: bytes by owner of what the session itself holds, such as its weights.
    """

    space: ParameterSpace
    strategy: str = "sequential"
    head: Head = "causal"
    facts: dict[str, Any]

    def strategy_for(self, law: Sampler | None, tokens: float) -> str:
        """The strategy for directions of a law and batches of about so many tokens."""
        return self.strategy

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenise; raises ZoplatError naming the example that can't be."""

    @abstractmethod
    def forward(self, rows: Sequence[Row]) -> Any:
        """Mean loss of a batch at the weights as they stand, in float32 or better. Counts nothing.

        A float, or an array of one float64 that the device is still at work on: `float()` waits for it.
        """

    def losses_at(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """Mean loss of a batch at θ + d for each d by one forward pass; the arrays hold θ and are left alone.

        Where the strategy is "streaming", a block is settled when it is first met.
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

    def write_bundle(self, directory: Path) -> None:
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
    makes_bundles: ClassVar[bool] = False

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
