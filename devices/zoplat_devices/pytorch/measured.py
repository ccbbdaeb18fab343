"""What a session of PyTorch says about its memory: readings, the ledger, and what only a profile asks for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.core.memory import IN_FILES, IN_HOST_MEMORY, ON_CARD, MemoryReading
from zoplat_devices.memory import HostMemory
from zoplat_devices.pytorch import about
from zoplat_devices.pytorch.loaded import Loaded, embeddings
from zoplat_devices.pytorch.parameters import tensor_of
from zoplat_devices.pytorch.recordings import Recordings
from zoplat_devices.pytorch.rehearsal.allocations import Allocations
from zoplat_devices.pytorch.sharding import held

if TYPE_CHECKING:
    from zoplat_devices.pytorch.strategies.batched import BatchedEvaluator
    from zoplat_devices.pytorch.strategies.sequential import ExactRestore
    from zoplat_devices.pytorch.strategies.streaming import StreamingEvaluator

MKL = "work buffers of MKL"
ENTRIES = 1_000_000
"""Allocations and releases that a snapshot keeps, the newest ones."""


class MeasuredSession(Session):
    """The part of `PyTorchSession` that measures.

    Attributes:
        is_spread: whether the model lies on several cards.
        model: that runs.
        target: the device of torch; of several, that of the inputs and the losses.
        loaded, recordings, exact_restore, batched, streaming: as `PyTorchSession` has them.
    """

    is_spread: bool = False
    model: Any
    target: torch.device
    loaded: Loaded
    recordings: Recordings | None
    exact_restore: ExactRestore | None
    batched: BatchedEvaluator
    streaming: StreamingEvaluator | None
    _host: HostMemory
    _libraries: int
    _files: int
    _kernel_bytes: int

    @cached_property
    def cards(self) -> list[torch.device]:
        """The devices of CUDA that hold the model."""
        if self.target.type != "cuda":
            return []
        return [torch.device(card) for card in held(self._tensors())] if self.is_spread else [self.target]

    def memory(self) -> MemoryReading:
        host = self._host.read()
        if self.target.type != "cuda":
            return MemoryReading(*host)
        recorded = self.recordings.bytes if self.recordings else 0
        cards = [torch.cuda.memory_stats_as_nested_dict(card) for card in self.cards]  # once: each takes long
        allocated = [card["allocated_bytes"]["all"] for card in cards]
        now = max(one["current"] for one in allocated) + recorded
        peak = max(one["peak"] for one in allocated)
        return MemoryReading(
            *host, now, max(now, peak), max(card["reserved_bytes"]["all"]["current"] for card in cards)
        )

    def reset_peak(self) -> None:
        self._host.reset()
        for card in self.cards:
            torch.cuda.reset_peak_memory_stats(card)

    def ledger(self) -> dict[str, int]:
        arrays = [tensor_of(block) for block in self.space.blocks]
        beside = IN_HOST_MEMORY if self.target.type != "cpu" else ""
        where = (beside or IN_FILES) if self.streaming else ""
        kept = [self._by_card(b.owner, b.arrays.values()) for b in self.space.buffers if not b.is_mapped]
        formed = self.exact_restore.bytes if self.exact_restore else 0
        return {
            "python, torch and transformers": self._libraries,
            **self._by_card(f"trainable weights{where}", arrays),
            **self._frozen(f"frozen weights{where}", arrays),
            **({"window of the streaming strategy": self.streaming.bytes} if self.streaming else {}),
            "noise kernels": max(0, self._kernel_bytes),
            **{buffer.owner + beside: buffer.bytes for buffer in self.space.buffers if buffer.is_mapped},
            **{owner: size for owned in kept for owner, size in owned.items()},
            "factors": self.space.factor_bytes,
            **({"recordings": self.recordings.bytes} if self.recordings else {}),
            "scratch": self.space.scratch_bytes + formed + self.batched.bytes,
        }

    def _frozen(self, owner: str, trained: list[Any]) -> dict[str, int]:
        """Bytes of the weights that are not trained."""
        if len(self.cards) < 2:
            return {owner: self.facts["model_bytes"] - sum(int(tensor.nbytes) for tensor in trained)}
        return self._by_card(owner, self._tensors(), trained)

    def _by_card(self, owner: str, tensors: Iterable[Any], without: Iterable[Any] = ()) -> dict[str, int]:
        """Bytes of some tensors less those of others; marked by the card where that is not the fullest."""
        if len(self.cards) < 2:
            return {owner: sum(int(tensor.nbytes) for tensor in tensors)}
        sizes = held(tensors)
        sizes.subtract(held(without))
        fullest = str(max(self.cards, key=torch.cuda.max_memory_allocated))
        return {owner if card == fullest else f"{owner}{ON_CARD}{card}": size for card, size in sizes.items()}

    def _tensors(self) -> list[Any]:
        """The weights and buffers of the model, quantised ones as the tensors that they consist of."""
        return about.tensors(self.model)

    def beyond_ledger(self) -> dict[str, int]:
        weights = self._host.mapped()
        return {
            "code of libraries, read since": max(0, self._host.of_files() - weights - self._files),
            "allocator of the host, freed and kept": self._host.kept_free(),
            MKL: self._kept_by_mkl(),
        }

    def _kept_by_mkl(self) -> int:
        """Resident bytes of the buffers that MKL keeps between products of matrices; they are given back now."""
        free = _of_mkl()
        if free is None:
            return 0
        before = self._host.now()
        free()
        self._host.kept_free()
        return max(0, before - self._host.now())

    def allocations(self) -> Allocations:
        shapes = frozenset(tuple(tensor_of(block).shape) for block in self.space.blocks)
        return Allocations(self.target.type, embeddings(self.loaded.model) or 0, shapes, adopts=True)

    def snapshot(self, path: Path) -> AbstractContextManager[None]:
        if self.target.type != "cuda":
            raise ZoplatError(
                f"--snapshot is of torch's allocator on a GPU, and device '{self.facts['device']}' has none. "
                "--memray FILE records the allocations of a processor."
            )
        return _snapshot(path)


@contextmanager
def _snapshot(path: Path) -> Iterator[None]:
    torch.cuda.memory._record_memory_history(max_entries=ENTRIES)
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(path))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


@cache
def _of_mkl() -> Any:
    """The function of MKL that frees its buffers, which torch has inside; None where it has not."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.exists():
        return None
    return getattr(ctypes.CDLL(str(library)), "mkl_serv_free_buffers", None)
