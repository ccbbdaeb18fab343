"""A session without weights: what a run would allocate is found by making its steps on the meta device.

Everything above the arrays is the code of `PyTorchSession`: the model's own forward pass, the batches, the evaluation
strategies, exact restore, backpropagation. What moves weights does nothing, and losses are random numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from zoplat.core.device import Rehearsal
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.memory import IN_FILES, IN_HOST_MEMORY, MemoryReading
from zoplat.core.model_spec import ModelSpec
from zoplat.space.counting import CountingSpace
from zoplat_devices.memory import HostMemory
from zoplat_devices.pytorch.derivatives import Derivatives
from zoplat_devices.pytorch.hiding import marks_ignored
from zoplat_devices.pytorch.inputs import LayerInputs
from zoplat_devices.pytorch.lean import import_lean
from zoplat_devices.pytorch.loaded import embeddings
from zoplat_devices.pytorch.opening import build_encoder, build_scorer, check_streamed, is_eager
from zoplat_devices.pytorch.parameters import tensor_of
from zoplat_devices.pytorch.precision import choose_restore, choose_rounding
from zoplat_devices.pytorch.reader import NoTokenizer, TextReader
from zoplat_devices.pytorch.rehearsal.allocations import FORWARD, GRADIENTS, LOGITS, UNCOUNTED, Allocations
from zoplat_devices.pytorch.rehearsal.attention import fused_attention
from zoplat_devices.pytorch.rehearsal.generation import ShapedGenerator
from zoplat_devices.pytorch.rehearsal.models import linear, shaped
from zoplat_devices.pytorch.rehearsal.space import STATE, ShapedBackend
from zoplat_devices.pytorch.rehearsal.streaming import ShapedStreaming, streamed, window
from zoplat_devices.pytorch.session import PyTorchSession
from zoplat_devices.pytorch.settings import PyTorchSettings
from zoplat_devices.pytorch.sharding import check_spread, shares
from zoplat_devices.pytorch.strategies.sequential import ExactRestore
from zoplat_devices.pytorch.tuning import blocks, tuned
from zoplat_devices.text.encoding import Tokens

META = torch.device("meta")
WEIGHTS = "weights"


class RehearsalSession(PyTorchSession, Rehearsal):
    """A model of transformers on the meta device.

    Args:
        settings: of the device that is meant.
        spec: which model, and what of it is trained.
        reader: of the rows; all are `blank` where there is none.

    Attributes:
        trace: counts what is allocated.
    """

    def __init__(self, settings: PyTorchSettings, spec: ModelSpec, reader: TextReader | None = None) -> None:
        self._host, self._libraries, self._files, self._kernel_bytes = HostMemory(), 0, 0, 0
        import_lean()
        check_streamed(settings, spec)
        self._kernels = self.recordings = None
        self.is_spread = bool(settings.map)
        if self.is_spread:
            check_spread(spec)
        self.target, self._kind, self._tokenizes = META, settings.kind, reader is not None and reader.can_encode
        self.loaded, self.opening = shaped(spec, settings.kind, reader.tokenizer if reader else NoTokenizer())
        self.trace = Allocations(settings.kind, embeddings(self.loaded.model) or 0)
        self._records = settings.kind == "cuda" and settings.record and is_eager(settings)
        with META, marks_ignored():
            self.model = tuned(self.loaded, spec)
        on_demand = streamed(self.model) if settings.is_streaming else {}
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            self.trace.enter(tensor, UNCOUNTED if id(tensor) in on_demand else WEIGHTS)
        if on_demand:
            self._window = torch.empty(window(self.model, self._kind), dtype=torch.uint8, device=META)
            self.trace.enter(self._window, WEIGHTS)
        self.head, self.libraries = self.loaded.head, reader.libraries if reader else self._host.now()
        with self.traced():
            self._open_space(settings, spec)
            if self._tokenizes:
                self.encoder = build_encoder(settings, self.loaded, self.model)
            self.scorer = build_scorer(settings, self.loaded, self.model, META)
            self.scorer.sees_padding = False
            if self._tokenizes:
                self.generator = ShapedGenerator(self.scorer, self.encoder, self.trace)
            self.derivatives = _ShapedDerivatives(self.model, self.space, settings.is_windowed)
            self.inputs = _ShapedInputs(self.model, self.space.blocks, self.scorer, self.head)
            self._open_strategies(settings, spec)
        self.trace.trained = frozenset(tuple(tensor_of(block).shape) for block in self.space.blocks)
        self.facts = {**self._facts(settings, spec), **linear(self.loaded.model)}
        if self.is_spread:
            self.facts["cards"] = shares(self.loaded.model, settings.spread)
        self.resident = self._host.now()

    def _open_space(self, settings: PyTorchSettings, spec: ModelSpec) -> None:
        trained = blocks(settings, self.model)
        restore = choose_restore(settings, trained)
        rounding = choose_rounding(settings, trained, restore)
        self.space = CountingSpace(
            trained, restore, rounding, ShapedBackend(self.trace), settings.is_streaming or settings.state != "memory"
        )
        self._form_when_needed()

    def _streaming(self, exact_restore: ExactRestore) -> ShapedStreaming:
        return ShapedStreaming(self.model, self.space, self.scorer, exact_restore, self._window.numel())

    @contextmanager
    def traced(self) -> Iterator[None]:
        try:
            with marks_ignored(), fused_attention(self._kind), self.trace:
                yield
        except RuntimeError as problem:
            if "autocast" not in str(problem):
                raise
            raise ZoplatError(
                f"A plan runs the model without weights, where transformers {version('transformers')} can't run it. "
                "Install transformers 5.23 or newer, or leave --memory out."
            ) from problem

    def owners_at_peak(self) -> dict[str, int]:
        trace = self.trace  # which counts what is mapped from files, or in the memory of the host, as nothing
        found = {name: size for name, size in self.ledger().items() if not name.endswith((IN_HOST_MEMORY, IN_FILES))}
        for name in ("python, torch and transformers", "noise kernels"):
            found.pop(name, None)
        forward = Counter({owner: size for owner, size in trace.at_peak.items() if owner not in (WEIGHTS, STATE)})
        rest = trace.peak - sum(forward.values()) - sum(found.values())
        forward[FORWARD] += rest  # scratch that is not made by the space is traced with the forward pass
        if self._records and not forward[GRADIENTS]:  # a recorded pass keeps what it needs between the steps
            forward["recordings"] = sum(forward.pop(name, 0) for name in (FORWARD, LOGITS))
        return {name: size for name, size in {**found, **forward}.items() if size > 0}

    def blank(self, count: int, tokens: int) -> list[Row]:
        example = Example("", (" a", " b"), 0)
        ids = [3] * tokens
        targets = [] if self.head == "classifier" else [[3], [4]]
        decoder = ([3],) if self.head == "seq2seq" else ()
        return [Row(example, tokens, Tokens([[*ids]], targets, decoder)) for _ in range(count)]

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return super().encode(examples) if self._tokenizes else self.blank(len(examples), 8)

    def memory(self) -> MemoryReading:
        now, peak = self.trace.now, self.trace.peak
        return MemoryReading(now, peak) if self._kind == "cpu" else MemoryReading(0, 0, now, peak)

    @property
    def products(self) -> int:
        return self.trace.products

    @property
    def kept(self) -> int:
        return self.trace.most_held - self.trace.peak

    def reset_peak(self) -> None:
        self.trace.reset()


class _ShapedDerivatives(Derivatives):
    """Derivatives whose entries are not looked at."""

    def check_finite(self, found: dict[str, Any]) -> None:
        for gradient in found.values():
            gradient.isfinite().all()


class _ShapedInputs(LayerInputs):
    """Inputs that are not looked at: what is known of them is a few numbers for each layer."""

    @contextmanager
    def _watched(self, token_mask: Any, found: dict[str, Any], look: Any) -> Iterator[None]:
        yield
