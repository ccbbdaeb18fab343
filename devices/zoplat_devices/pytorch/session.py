"""A model of transformers, opened for training on cpu, cuda or mps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from zoplat.core.blocks import Part
from zoplat.core.device import TextLoss
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.input_directions import LossAndRows
from zoplat.core.losses import SIDE_TERMS, Number
from zoplat.core.model_spec import ModelSpec
from zoplat.core.row_signs import RowSigns
from zoplat.core.sampler import Sampler
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.queue import Promise, Queue
from zoplat_devices.memory import HostMemory, trim
from zoplat_devices.pytorch import about, chat
from zoplat_devices.pytorch.backends import backend_for
from zoplat_devices.pytorch.derivatives import Derivatives
from zoplat_devices.pytorch.generation import TextGenerator
from zoplat_devices.pytorch.inputs import LayerInputs
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.measured import MeasuredSession
from zoplat_devices.pytorch.models import load
from zoplat_devices.pytorch.opening import (
    build_encoder,
    build_recordings,
    build_scorer,
    build_space,
    configure_torch,
    open_model,
    target_of,
)
from zoplat_devices.pytorch.parameters import weights_digest
from zoplat_devices.pytorch.precision import base_dtype
from zoplat_devices.pytorch.settings import PyTorchSettings
from zoplat_devices.pytorch.sharding import held, sharded_backend
from zoplat_devices.pytorch.strategies.batched import BatchedEvaluator
from zoplat_devices.pytorch.strategies.sequential import ExactRestore
from zoplat_devices.pytorch.strategies.streaming import StreamingEvaluator
from zoplat_devices.pytorch.text_loss import text_loss
from zoplat_devices.pytorch.tuning import blocks
from zoplat_devices.text.layout import GPU_TOKENS

FEW_TOKENS = 128
"""Tokens of a batch up to which low-rank side terms at all points together cost less than one after the other."""
MANY_TOKENS = 256
"""Tokens of a batch beyond which a processor moves weights in less time than side terms take in two passes."""


class PyTorchSession(MeasuredSession):
    """A model of transformers, opened.

    Args:
        settings: of the device.
        spec: which model, and what of it is trained.
        load: called in place of `models.load`, for weights that are in no file.

    Attributes:
        loaded: the model and its tokenizer as they were loaded.
        model: the one that runs, inside its adapter where it has one.
        target: the device of torch.
        recordings: of its steps; None where none are made.
        encoder: text to tokens.
        scorer: runs the model on a batch.
        exact_restore: forms perturbed weights while a layer runs; None under in-place restore.
        batched: evaluates several points by one forward pass.
        streaming: evaluates several points layer by layer; None where the weights are in memory.
    """

    def __init__(self, settings: PyTorchSettings, spec: ModelSpec, load: Callable[..., Loaded] = load) -> None:
        self._host = HostMemory()
        configure_torch(settings)
        self._libraries, self._files = self._host.now(), self._host.of_files()
        self.target = target_of(settings)
        self.loaded, self.model = open_model(settings, spec, load)
        self.head = self.loaded.head
        self.is_spread = bool(settings.map)
        if self.is_spread:  # losses are computed where the inputs are
            self.target = self.loaded.model.get_input_embeddings().weight.device
        self._open_space(settings, spec)
        self.encoder = build_encoder(settings, self.loaded, self.model)
        self.scorer = build_scorer(settings, self.loaded, self.model, self.target)
        self.recordings = build_recordings(settings, self.scorer, self._kernels)
        self.records = self.recordings is not None
        self.generator = TextGenerator(self.scorer, self.encoder)
        self.derivatives = Derivatives(self.model, self.space, settings.is_windowed)
        self.inputs = LayerInputs(self.model, self.space.blocks, self.scorer, self.head)
        self._open_strategies(settings, spec)
        self.facts = self._facts(settings, spec)
        trim()

    def _open_space(self, settings: PyTorchSettings, spec: ModelSpec) -> None:
        """The trained weights as a space, and exact restore's hooks on the model."""
        trained = blocks(settings, self.model)
        before = self._host.now()
        backend = sharded_backend(trained) if self.is_spread else backend_for(trained, str(self.target))
        self._kernels = backend.kernels if isinstance(backend, FusedBackend) else None
        self.space = build_space(settings, spec, trained, backend)
        self._kernel_bytes = self._host.now() - before
        if settings.kind != "cuda":
            self._kernel_bytes -= sum(buffer.bytes for buffer in self.space.buffers)
        self._form_when_needed()

    def _form_when_needed(self) -> None:
        """Exact restore's hooks on the model, where the space asks for it."""
        self.exact_restore = ExactRestore(self.model, self.space) if self.space.restore == "exact" else None

    def _open_strategies(self, settings: PyTorchSettings, spec: ModelSpec) -> None:
        """The evaluators, and the strategy that is usual for this model."""
        most = GPU_TOKENS if settings.kind == "cuda" else None
        self.batched = BatchedEvaluator(self.model, self.space, self.scorer, self.recordings, most)
        self.streaming = self._streaming(self.exact_restore) if settings.is_streaming and self.exact_restore else None
        self._is_followed = self.head != "seq2seq" and not settings.static_forward and not self.is_spread
        self._may_add = settings.side_terms
        self._may_choose = settings.strategy == "auto" and self._is_followed
        self.strategy = "sequential" if settings.strategy == "auto" else settings.strategy
        if self._may_choose and spec.tune.is_adapter and self._can_batch:
            self.strategy = "batched"

    def _streaming(self, exact_restore: ExactRestore) -> Any:
        gpu = self.target if self.target.type == "cuda" else None
        return StreamingEvaluator(self.model, self.space, self.scorer, exact_restore, gpu)

    def _facts(self, settings: PyTorchSettings, spec: ModelSpec) -> dict[str, Any]:
        """Plain values for the record of a run."""
        return {
            "device": settings.kind,
            **about.of_model(self.loaded, self.model),
            "base": spec.base,
            "dtype": base_dtype(spec, settings.kind, self.head),
            **about.of_space(self.space),
            "compile": settings.compile,
            "records": self.records,
            "threads": torch.get_num_threads(),
            "memory_counter": self._host.method,
            "versions": about.versions(),
            "accelerator": about.accelerator(settings.kind),
            **({"cards": dict(held(self._tensors()))} if self.is_spread else {}),
        }

    @cached_property
    def _can_batch(self) -> bool:
        """Whether all uses of what is trained can be followed, by a trial run on a small batch."""
        if self.scorer.sees_padding:
            return False
        try:
            self.batched.check(self.encode([Example("It was", (" good", " bad"), 0, suffix=" .")]))
        except ZoplatError:
            return False
        return True

    def strategy_for(self, law: Sampler | None, tokens: float) -> str:
        """The usual strategy; where directions have factors, with side terms.

        Points are batched then where a batch has few tokens, and where it has many a processor moves the weights;
        measured in docs/performance.md. On a GPU points are batched where two fit in one pass. Rows with directions of
        their own are computed together if that can be followed.
        """
        if law is None or self.is_spread or self.strategy not in SIDE_TERMS:
            return self.strategy
        is_added = self._may_add and self.space.is_low_rank(law)
        if isinstance(law, RowSigns) and self._may_choose and self._can_batch:
            return SIDE_TERMS["batched"] if is_added else "batched"
        if not is_added:
            return self.strategy
        if self.strategy == "sequential" and not (self._is_followed and self._can_batch):
            return self.strategy
        is_moved = self.strategy == "sequential" and self.space.restore == "in-place" and tokens > MANY_TOKENS
        if is_moved and self.facts["device"] == "cpu":
            return self.strategy
        is_wide = any(len(block.shape) == 2 and block.dtype == "float32" for block in self.space.blocks)
        few = {"cpu": FEW_TOKENS * is_wide, "cuda": GPU_TOKENS // 2}.get(self.facts["device"], 0)
        return SIDE_TERMS["batched" if self._may_choose and tokens <= few else self.strategy]

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return self.encoder.encode(examples)

    @contextmanager
    def together(self, phase: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        kernels = self._kernels
        if self.recordings is None or kernels is None or not kernels.queues:
            yield
            return
        queue = kernels.queue = Queue(self.recordings.perform)
        try:
            yield
        finally:
            kernels.queue = None
            if not queue.is_empty:
                with phase():
                    queue.finish()

    def forward(self, rows: Sequence[Row]) -> Number:
        if self._kernels and self._kernels.queue:
            return self._queue_forward(self._kernels.queue, rows)
        with self._perturbed():
            return self.scorer.loss(rows)

    def _queue_forward(self, queue: Queue, rows: Sequence[Row]) -> Promise:
        """Queue a forward pass at the weights as they will be then."""
        perturbation, batch = self.space.perturbation, self.scorer.packed(rows)
        if perturbation:
            self.space.at(perturbation)  # so that nothing is left to be moved while the model runs
        if perturbation and not self.space.prepare_perturbation():
            queue.obstacle = "a law is formed tile by tile, with numbers that are sent while the model runs"

        def run(words: Any) -> Any:
            self.space.perturb(perturbation)
            with self._formed():
                return self.scorer.mean(batch.on(words))

        queue.add(("forward", batch.form, bool(perturbation)), run, batch.words.numpy())
        return queue.promise()

    def losses_at(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[Number]:
        self._check_followed()
        return self.streaming.losses(rows, directions) if self.streaming else self.batched.losses(rows, directions)

    def row_losses(self, rows: Sequence[Row]) -> list[Number]:
        with self._perturbed(), torch.inference_mode():
            return self.scorer.row_losses(rows)[0].double().tolist()

    def row_losses_at(self, rows: Sequence[Row], points: Sequence[Sequence[Direction]]) -> list[list[Number]]:
        if self.streaming:
            return super().row_losses_at(rows, points)
        self._check_followed()
        return self.batched.row_losses(rows, points)

    def _check_followed(self) -> None:
        """Raise ZoplatError where several points can't be computed by one pass over the model."""
        if self.scorer.sees_padding:
            raise ZoplatError(
                f"{self.loaded.name} sees padding, so its rows are read without any, which goes with the sequential "
                "strategy alone. Use -o device.strategy=sequential."
            )
        if self.head == "seq2seq" and not self.streaming:
            raise ZoplatError("The batched strategy can't follow seq2seq models. Use -o device.strategy=sequential.")

    def jvp(self, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        _ = self.scorer.sees_padding  # its trial can't be made inside
        self._release_recordings()
        return self.derivatives.jvp(direction, lambda: self.scorer.mean_loss(rows))

    def gradient(self, rows: Sequence[Row], part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        self._release_recordings()
        return self.derivatives.gradient(part, recompute, lambda: self.scorer.mean_loss(rows))

    def input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        self._release_recordings()
        return self.inputs.norms(rows)

    def input_directions(self, rows: Sequence[Row], rank: int, rounds: int) -> LossAndRows:
        self._release_recordings()
        return self.inputs.directions(rows, rank, rounds)

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        with self._perturbed():
            return self.scorer.scores(rows)

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        with self._perturbed():
            return [text for some in self._unpadded(rows) for text in self.generator.generate(some, tokens, stop)]

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        with self._perturbed():
            return [line for some in self._unpadded(rows) for line in self.generator.features(some)]

    def text_loss(
        self, texts: Sequence[str], places: int, keep: Path | None = None, against: Path | None = None
    ) -> TextLoss:
        with self._perturbed():
            return text_loss(self.scorer, self.encoder, texts, places, keep, against)

    def chat(self, prompts: Sequence[str]) -> list[str]:
        return chat.turns(self.loaded.tokenizer, prompts, self.loaded.name)

    def digest(self) -> str:
        self._wait()
        return weights_digest(self.space)

    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        self._wait()  # for kernels that write to arrays of the host
        save_file(arrays, path)
        self._release_weights()

    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors import safe_open

        self._wait()
        with safe_open(path, framework="pt") as file:
            for name, array in arrays.items():
                array.copy_(file.get_tensor(name))
        self._release_weights()

    def export(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.loaded.tokenizer.save_pretrained(directory)

    def _unpadded(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """Rows in batches without padding: one for each row of a model that sees it, else all in one."""
        return [[row] for row in rows] if len(rows) > 1 and self.scorer.sees_padding else [rows]

    def _wait(self) -> None:
        """Wait until the device has done all that it was given."""
        for card in self.cards:
            torch.cuda.synchronize(card)

    def _release_weights(self) -> None:
        """Release the memory of weights that are in files, after all of them were read."""
        for block in self.space.blocks:
            self.space.release(block)

    @contextmanager
    def _perturbed(self) -> Iterator[None]:
        """The same, unrecorded."""
        self._release_recordings()
        with self._formed():
            yield

    def _release_recordings(self) -> None:
        if self.recordings:
            self.recordings.release()

    @contextmanager
    def _formed(self) -> Iterator[None]:
        """Run the model at θ + the perturbation of the space, where exact restore has one."""
        if self.exact_restore is None or not self.space.perturbation:
            yield
            return
        with self.exact_restore.active():
            yield
