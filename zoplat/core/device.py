"""What a runtime provides: a model that is opened for training by forward passes.

In one file because a device is what makes the others: its readers, rehearsals and sessions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from zoplat.core.arrays import Array
from zoplat.core.blocks import Block, Part
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.exchange import Exchange
from zoplat.core.losses import SIDE_TERMS, Number
from zoplat.core.memory import MemoryReading, Trace
from zoplat.core.model_spec import Head, ModelSpec
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace


@dataclass(frozen=True)
class TextLoss:
    """What a model makes of plain texts.

    Attributes:
        loss: mean of −log p over all tokens that follow another, nats a token.
        tokens: how many these are.
        divergence: mean of KL(kept ‖ now) over some places, nats a token; None where nothing was kept before.
        places: how many these are.
    """

    loss: float
    tokens: int
    divergence: float | None
    places: int


class Reader(Protocol):
    """What encodes text for a model, as a session does; it may have no weights.

    Attributes:
        head: what the model predicts.
    """

    head: Head

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """As `Session.encode`."""

    def chat(self, prompts: Sequence[str]) -> list[str]:
        """As `Session.chat`."""

    def release(self) -> None:
        """Give up what only encoding needs; nothing is encoded afterwards."""


class Session(ABC):
    """An opened model.

    Attributes:
        space: its trainable weights θ.
        strategy: the default evaluation strategy: "sequential", "batched" or "streaming"; see `LossBackend`.
        records: whether passes inside `together` are recorded when a shape of batch occurs for the second time.
        head: what the model predicts.
        facts: what was opened, as plain values by name: model, dtype, restore, rounding, device, threads, versions,
            trainable_parameters, model_bytes, …
    """

    space: ParameterSpace
    strategy: str = "sequential"
    records: bool = False
    head: Head = "causal"
    facts: dict[str, Any]

    def strategy_for(self, law: Sampler | None, tokens: float) -> str:
        """The evaluation strategy to use for directions of a law, None where none are drawn.

        Args:
            law: of the directions.
            tokens: in a batch, on average.
        """
        is_low_rank = law is not None and self.space.is_low_rank(law)
        return SIDE_TERMS["batched"] if self.strategy == "batched" and is_low_rank else self.strategy

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenise examples; raises ZoplatError that names the first one that can't be."""

    def together(self, phase: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
        """What is inside may be queued, and is then performed at its end: moves of the weights, and `forward`.

        Args:
            phase: its context is entered around the work.
        """
        return nullcontext()

    @abstractmethod
    def forward(self, rows: Sequence[Row]) -> Number:
        """Mean loss of a batch at the weights that the arrays hold now, in float32 or better.

        A float, or a number that the device has queued: `float()` waits for it.
        """

    def losses_at(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[Number]:
        """Mean loss of a batch at θ + d for each direction d, by one forward pass.

        "batched": the arrays hold θ and are not written. "streaming": each block is settled when the pass reaches it.
        """
        raise NotImplementedError

    def row_losses(self, rows: Sequence[Row]) -> list[Number]:
        """Loss of each row by itself, at the weights that the arrays hold now."""
        return [self.forward([row]) for row in rows]

    def row_losses_at(self, rows: Sequence[Row], points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        """Loss of each row by itself at θ + d, with a d of its own at each point; the arrays as for `losses_at`."""
        return [[self.losses_at([row], [d])[0] for row, d in zip(rows, point, strict=True)] for point in points]

    def jvp(self, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        """Mean loss of a batch at θ and its derivative along a direction, by forward-mode differentiation."""
        raise NotImplementedError

    def gradient(self, rows: Sequence[Row], part: Part, recompute: bool) -> tuple[float, dict[str, Array]]:
        """Mean loss of a batch at θ, and its gradient for each block of a part; see `Oracle.gradient`."""
        raise NotImplementedError

    def input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """For each matrix of a linear layer, by block name, the Euclidean norm over the batch of each input feature."""
        raise NotImplementedError

    def input_directions(
        self, rows: Sequence[Row], rank: int, rounds: int
    ) -> tuple[float, Mapping[str, Sequence[Sequence[float]]]]:
        """Mean loss of a batch, and the leading right singular vectors of the inputs of linear layers, by one pass.

        For each of their matrices, by block name, `rank` vectors by power iteration, but no more than it has rows or
        columns: each as long as its singular value, the longest first; zeros where the inputs have fewer.
        """
        raise NotImplementedError

    @abstractmethod
    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row, in float32 or better, by one forward pass."""

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        """Greedy continuation of each prompt: at most `tokens` tokens, cut before the first `stop`."""
        raise NotImplementedError

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        """Hidden state of the last layer at the last token of each prompt, by one forward pass."""
        raise NotImplementedError

    def text_loss(
        self, texts: Sequence[str], places: int, keep: Path | None = None, against: Path | None = None
    ) -> TextLoss:
        """Loss of plain texts at the weights that the arrays hold, each text read by itself from its first token on.

        Args:
            texts: longer ones are cut to what the model reads.
            places: at so many evenly spaced tokens, or at all if there are fewer, the predictions are kept or compared.
            keep: a file that is written: the log-probabilities of the whole vocabulary there.
            against: such a file, of the same texts and places, that the divergence is measured from.

        Raises:
            ZoplatError: the model does not predict each next token of a text.
        """
        raise NotImplementedError

    def chat(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as turns of a user, by the chat template of the model; raises ZoplatError if it has none."""
        raise ZoplatError(f"{self.facts['model']} has no chat template. Leave --template out.")

    @abstractmethod
    def memory(self) -> MemoryReading:
        """Bytes in use now and at peak."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Forget the peak so far: the next `memory` gives the peak since this call."""

    @abstractmethod
    def ledger(self) -> dict[str, int]:
        """Bytes by owner, for all long-lived arrays and libraries that the session knows of."""

    def beyond_ledger(self) -> dict[str, int]:
        """Host bytes by owner that the ledger can't book: code read since opening, what allocators keep free.

        Allocators are asked to give back what they keep, so this is for the end of a profile.
        """
        return {}

    def allocations(self) -> Trace | None:
        """What counts the arrays that passes make and give back, none yet; None where that can't be followed."""
        return None

    def snapshot(self, path: Path) -> AbstractContextManager[None]:
        """What is inside is recorded by the runtime's own tool, into a file when it ends.

        Raises:
            ZoplatError: it has none.
        """
        raise ZoplatError("--snapshot: this device has no recorder of allocations. --memray FILE records the process.")

    @abstractmethod
    def digest(self) -> str:
        """sha256 of the bytes of the trainable arrays as stored, in the order of the blocks."""

    @abstractmethod
    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        """Write arrays of this device by name to a safetensors file."""

    @abstractmethod
    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        """Read a file made by `write` into the same named arrays, in place."""

    @abstractmethod
    def export(self, directory: Path) -> None:
        """Write the model at θ as other programs load it: a checkpoint or an adapter, with its tokenizer."""

    def write_bundle(self, directory: Path) -> None:
        """Write the files that open this model on a board into a bundle; only for devices with `makes_bundles`."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Any]:
        """The trainable arrays by block name, of the runtime's own type."""
        return {block.name: block.array for block in self.space.blocks}


class Rehearsal(Session):
    """A session without weights, for planning.

    Steps are made on shapes, losses are random, and `memory` is what would be in use on the device that is meant.

    Attributes:
        libraries: resident bytes of this process with the libraries and, if there is a reader, its tokenizer.
        resident: of this process as it is, with what only a rehearsal imports.
        opening: bytes of the file of the weights that are resident beside them while they are converted.
    """

    libraries: int
    resident: int
    opening: int = 0

    @property
    @abstractmethod
    def products(self) -> int:
        """Multiplications and additions in products of matrices since `reset_peak`, those of attention left out."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """Bytes that an allocator holds at most since `reset_peak`, above the peak of those in use."""

    @abstractmethod
    def traced(self) -> AbstractContextManager[None]:
        """What is inside is counted by `memory`."""

    @abstractmethod
    def owners_at_peak(self) -> dict[str, int]:
        """Bytes by owner at the peak since `reset_peak`: those of the ledger, and activations and logits."""

    @abstractmethod
    def blank(self, count: int, tokens: int) -> list[Row]:
        """Rows of so many tokens each, with two options of one token."""


class Device(ABC):
    """A runtime that opens models. A frozen dataclass whose fields are its settings; cheap to construct.

    Attributes:
        answers: what its sessions can compute; a subset of {"losses", "row losses", "jvp", "gradient", "input norms",
            "input directions", "generation", "features", "text loss"}.
        takes_models: whether it opens the model that `--model` names; if not, it has one of its own.
        makes_bundles: whether `zoplat pack` can write its sessions into a bundle.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses"})
    takes_models: ClassVar[bool] = True
    makes_bundles: ClassVar[bool] = False

    @property
    def priority(self) -> int | None:
        """Rank for `--device auto`, the highest first; None for a device that is only used when it is named."""
        return None

    @abstractmethod
    def missing(self) -> str | None:
        """Why this device can't be used on this machine, and what to do about it; None when it can."""

    @abstractmethod
    def open(self, spec: ModelSpec) -> Session:
        """Load a model and choose its trainable blocks.

        Raises:
            ZoplatError: the model can't be found or read, or nothing in it is trainable.
        """

    def reader(self, spec: ModelSpec, fetches: bool = False) -> Reader | None:
        """What encodes text for a model, without reading its weights; None where that can't be had here.

        Args:
            spec: as for `open`.
            fetches: whether the small files of a model that is not on this machine are fetched.

        Raises:
            ZoplatError: what `open` would refuse, as far as that shows before weights are read.
        """
        return None

    def trial_examples(self) -> Sequence[Example]:
        """Rows on which `zoplat check` tries it, some four with the same options; none for English sentences."""
        return ()

    def exchange(self, seconds: float) -> Exchange | None:
        """The exchange of the processes that a launcher such as torchrun has started; None where this device has none.

        Args:
            seconds: after which a rank that does not answer is given up.
        """
        return None

    def rehearse(self, spec: ModelSpec, reader: Reader | None = None) -> Rehearsal | None:
        """A session without weights, to find out what a run would take; None where this device has none.

        Args:
            spec: as for `open`; only the configuration of the model is read.
            reader: of this device and this model, where rows are its rows; all are `blank` when None. Texts can be
                generated unless it was released.

        Raises:
            ZoplatError: as `open`, as far as that shows before weights are read.
        """
        return None

    def convert(self, spec: ModelSpec) -> None:  # noqa: B027  # most devices have nothing to convert
        """Convert a model that is not stored as it is opened, once; nothing is downloaded.

        Raises:
            ZoplatError: as `open`.
        """

    def sparing(self) -> AbstractContextManager[None]:
        """A context in which opening a model takes less memory and more time, where there is a choice."""
        return nullcontext()

    def within(self, limit: int) -> AbstractContextManager[str]:
        """A context in which the system or the allocator refuses what exceeds a limit, as far as it can.

        Args:
            limit: bytes that the process may have resident; on an accelerator, that its arrays may take there.

        Returns:
            A context with what enforces it, in words; "" where nothing does.
        """
        return nullcontext("")

    def block(self, name: str, array: Any, dtype: str, layer: int | None = None) -> Block:
        """A block over an array, by the rules that all devices share.

        Weight decay applies to matrices and not to vectors. An array of more than two dimensions becomes a matrix
        with as many rows as its first dimension, a scalar a vector of length 1.
        """
        if len(array.shape) != 1:
            array = array.reshape(array.shape[0], -1) if len(array.shape) else array.reshape(1)
        return Block(name, array, dtype, layer, decays=len(array.shape) == 2)
