"""PyTorch on cpu, cuda and mps: any language model of transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from hashlib import sha256
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoplat.core.blocks import Part
from zoplat.core.device import MemoryReading, Session
from zoplat.core.direction import Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import Head, ModelSpec
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.space.rounding import RoundingName
from zoplat_devices.memory import HostMemory
from zoplat_devices.pytorch.device import COMPILER, PyTorch, _fixed_pass

if TYPE_CHECKING:
    from zoplat_devices.pytorch.models import Loaded

FEW = 128
"""Tokens of a batch up to which low-rank side terms cost less than passes over all weights."""


ADAPTERS = ("lora", "dora", "ia3", "prefix", "prompt")


class PyTorchSession(Session):
    """A model of transformers, opened.

    Args:
        device: its settings.
        spec: which model, and what of it is trained.
        load: called in place of `models.load`, for weights that are in no file.
    """

    def __init__(self, device: PyTorch, spec: ModelSpec, load: Callable[..., Loaded] | None = None) -> None:
        self.host = HostMemory()
        import torch

        if device.threads:
            torch.set_num_threads(device.threads)
        torch.backends.cuda.matmul.allow_tf32 = device.tf32
        from zoplat_devices.pytorch import about, models, virtual
        from zoplat_devices.pytorch.backends import backend_for
        from zoplat_devices.pytorch.derivatives import Derivatives
        from zoplat_devices.pytorch.generation import Writer
        from zoplat_devices.pytorch.heads import reads_on
        from zoplat_devices.pytorch.mapped import evict, move_to_files
        from zoplat_devices.pytorch.pages import onto_large_pages
        from zoplat_devices.pytorch.scoring import Scorer
        from zoplat_devices.pytorch.strategies.batched import Branches
        from zoplat_devices.pytorch.strategies.sequential import Probes
        from zoplat_devices.pytorch.strategies.streaming import Streaming
        from zoplat_devices.pytorch.tuning import blocks, tuned
        from zoplat_devices.text.encoding import Encoder

        self.torch = torch
        self.before = self.host.now()

        def dtype(head: Head) -> Any:
            return getattr(torch, _dtype(spec, device.kind, head))

        load, streamed = load or models.load, device.strategy == "streaming"
        self.loaded = loaded = load(spec.model, dtype, _say, spec.head, spec.classes, spec.seed, spec.base, streamed)
        self.head = loaded.head
        self.target = torch.device(device.kind)
        self.model = tuned(loaded, spec).to(self.target)
        if streamed:
            move_to_files(self.model)
        elif device.kind == "cpu":
            onto_large_pages(self.model)
        trained = blocks(device, self.model)
        kinds = sorted({block.dtype for block in trained})
        narrow = bool({"float16", "bfloat16"} & {*kinds})
        restore: Restore = "exact" if streamed or narrow else "in-place"
        if device.restore != "auto":
            restore = device.restore
        if (asked := _fixed_pass(device)) and restore == "exact":
            raise ZoplatError(
                f"{asked} can't see weights that are formed while a layer runs, as restore=exact does, which is usual "
                f"for {kinds[0]} weights. Use -o device.restore=in-place."
            )
        rounding: RoundingName = "stochastic" if narrow and restore == "exact" else "nearest"
        if device.rounding != "auto":
            rounding = device.rounding
        self.kernels = -self.host.now()
        release = evict if device.kind == "cpu" else lambda array: None
        self.space = ParameterSpace(
            trained,
            backend_for(trained, device.kind, self.empty, self.mapped, release),
            restore,
            rounding,
            spec.seed,
            weights_in_files=streamed,
            state_in_files=streamed or device.state == "disk",
        )
        self.kernels += self.host.now()
        if device.kind != "cuda":
            self.kernels -= sum(buffer.bytes for buffer in self.space.buffers)
        self.probes = Probes(self.model, self.space) if restore == "exact" else None
        config, limit = loaded.model.config, token_limit(loaded, virtual.count(self.model))
        start = config.decoder_start_token_id if self.head == "seq2seq" else None
        self.encoder = Encoder(loaded.tokenizer, limit, self.head, start, config.num_labels)
        left = self.head == "causal" or (self.head == "classifier" and reads_on(config))
        self.scorer = Scorer(self.model, self.target, self.head, _pad(loaded), left)
        self._prepare_forward(device)
        self.writer = Writer(self.scorer, self.encoder)
        self.derivatives = Derivatives(self.model, self.space)
        self.stacked = Branches(self.model, self.space, self.scorer)
        self.streaming = None
        if streamed and self.probes:
            self.streaming = Streaming(self.model, self.space, self.scorer, self.probes)
        self.may_choose = device.strategy == "auto" and self.head != "seq2seq" and not _fixed_pass(device)
        self.strategy: str = "sequential" if device.strategy == "auto" else device.strategy
        if self.may_choose and spec.tune.name in ADAPTERS and self.can_batch:
            self.strategy = "batched"
        self.facts = {
            "device": device.kind,
            "model": loaded.name,
            "model_identity": loaded.identity,
            "head": self.head,
            "base": spec.base,
            "dtype": _dtype(spec, device.kind, self.head),
            "trainable_dtype": ", ".join(kinds),
            "restore": restore,
            "rounding": rounding,
            "compile": device.compile,
            "graphs": device.graphs,
            "trainable_parameters": self.space.size,
            "model_bytes": about.size(self.model),
            "threads": torch.get_num_threads(),
            "kernels": self.space.backend_name,
            "memory_counter": self.host.method,
            "versions": about.versions(),
            "accelerator": about.accelerator(device.kind),
        }

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new tensor on the device, one that may be edited at any time."""
        with self.torch.inference_mode(False):
            return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=self.target)

    def mapped(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor of the host in a file without a name."""
        from zoplat_devices.pytorch.mapped import mapped

        return mapped(shape, getattr(self.torch, dtype))

    def _prepare_forward(self, device: PyTorch) -> None:
        """Compile or record what finds the loss, if that is asked for."""
        if device.compile:
            self.scorer.run = self.torch.compile(self.scorer.run, backend=COMPILER)
        if device.graphs:
            from zoplat_devices.pytorch.cuda_graphs import CudaRecorder, Graphs

            self.scorer.mean = Graphs(self.scorer.mean, CudaRecorder())

    @cached_property
    def can_batch(self) -> bool:
        """Whether all uses of what is trained can be followed, by a trial on a small batch."""
        try:
            self.stacked.check(self.encode([Example("It was", (" good", " bad"), 0, suffix=" .")]))
        except ZoplatError:
            return False
        return True

    def strategy_for(self, law: Sampler | None, tokens: float) -> str:
        """Also by batches where directions have factors and rows are few: then moving the weights costs more.

        Adapters go by batches whatever is asked. Figures are in docs/explanation/evaluation-strategies.md.
        """
        is_wide = any(len(block.shape) == 2 and block.dtype == "float32" for block in self.space.blocks)
        if not (self.may_choose and self.target.type == "cpu" and law and is_wide and tokens <= FEW):
            return self.strategy
        return "batched" if self.space.is_low_rank(law) and self.can_batch else self.strategy

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return self.encoder.encode(examples)

    def forward(self, rows: Sequence[Row]) -> float:
        with self._probed():
            return self.scorer.loss(rows)

    def losses_at(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        if self.streaming:
            return self.streaming.losses(rows, directions)
        if self.head == "seq2seq":
            raise ZoplatError("The batched strategy can't follow seq2seq models. Use -o device.strategy=sequential.")
        return self.stacked.losses(rows, directions)

    def jvp(self, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        return self.derivatives.along(direction, lambda: self.scorer.mean_loss(rows))

    def gradient(self, rows: Sequence[Row], part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        return self.derivatives.backward(part, recompute, lambda: self.scorer.mean_loss(rows))

    def input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        with self.scorer.eager():
            return self._input_norms(rows)

    def _input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        if self.head == "causal":
            return self.derivatives.input_norms(self.scorer.present(rows), lambda: self.scorer.loss(rows))
        if self.head == "seq2seq":
            raise ZoplatError("The norms of a layer's inputs are not known for seq2seq models. Use another --head.")
        told = [self.derivatives.input_norms(None, partial(self.scorer.loss, [row])) for row in rows]
        return {name: [hypot(*each) for each in zip(*(norms[name] for norms in told), strict=True)] for name in told[0]}

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        with self._probed():
            return self.scorer.scores(rows)

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        with self._probed():
            return self.writer.generate(rows, tokens, stop)

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        with self._probed():
            return self.writer.features(rows)

    def chat(self, prompts: Sequence[str]) -> list[str]:
        tokenizer = self.loaded.tokenizer
        if not tokenizer.chat_template:
            return super().chat(prompts)
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return [tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in turns]

    def memory(self) -> MemoryReading:
        host = self.host.read()
        if self.target.type != "cuda":
            return MemoryReading(*host)
        cuda = self.torch.cuda
        return MemoryReading(*host, cuda.memory_allocated(), cuda.max_memory_allocated())

    def reset_peak(self) -> None:
        self.host.reset()
        if self.target.type == "cuda":
            self.torch.cuda.reset_peak_memory_stats()

    def ledger(self) -> dict[str, int]:
        trainable = sum(int(block.array.nbytes) for block in self.space.blocks)
        where = ", in files" if self.streaming else ""
        return {
            "python, torch and transformers": self.before,
            f"trainable weights{where}": trainable,
            f"frozen weights{where}": self.facts["model_bytes"] - trainable,
            **({"window of the streaming strategy": self.streaming.bytes} if self.streaming else {}),
            "noise kernels": max(0, self.kernels),
            **{buffer.owner: buffer.bytes for buffer in self.space.buffers},
            "scratch": self.space.scratch_bytes + (self.probes.bytes if self.probes else 0) + self.stacked.bytes,
        }

    def digest(self) -> str:
        digest = sha256()
        for block in self.space.blocks:
            digest.update(block.array.reshape(-1).view(self.torch.uint8).cpu().numpy().data)
            self.space.release(block)
        return f"sha256:{digest.hexdigest()}"

    def _release(self) -> None:
        """All weights were read."""
        for block in self.space.blocks:
            self.space.release(block)

    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(arrays, path)
        self._release()

    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name, array in arrays.items():
                array.copy_(file.get_tensor(name))
        self._release()

    def export(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.loaded.tokenizer.save_pretrained(directory)

    @contextmanager
    def _probed(self) -> Iterator[None]:
        if self.probes is None or not self.space.perturbation:
            yield
            return
        with self.probes.active():
            yield


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _dtype(spec: ModelSpec, kind: str, head: Head) -> str:
    """A frozen base in bfloat16 where the device multiplies in it natively, float32 for all else.

    A classifier's new head moves too, in the precision of its base, and 8 bits are too few for small steps.
    """
    import torch

    if spec.dtype != "auto":
        return spec.dtype
    cpu = kind == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    frozen = spec.tune.name in ADAPTERS and head != "classifier"
    return "bfloat16" if frozen and (cpu or kind == "cuda") else "float32"


def token_limit(loaded: Loaded, virtual: int) -> int:
    """Tokens that the model can read beside its virtual ones."""
    import torch

    config = loaded.model.config.get_text_config()
    places = getattr(config, "max_position_embeddings", None) or 1 << 30
    for name, module in loaded.model.named_modules():  # some families count places from behind the padding's
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            behind = 0 if module.padding_idx is None else module.padding_idx + 1
            places = min(places, module.num_embeddings - behind)
    return int(min(places, loaded.tokenizer.model_max_length or places, 2048)) - virtual


def _pad(loaded: Loaded) -> int:
    """What fills rows up; a classifier that looks for its last token is told."""
    tokenizer, config = loaded.tokenizer, loaded.model.config.get_text_config()
    if loaded.head == "causal":
        return 0
    known = [config.pad_token_id, tokenizer.pad_token_id] if loaded.head == "classifier" else [tokenizer.pad_token_id]
    pad = next((int(id_) for id_ in [*known, tokenizer.eos_token_id] if id_ is not None), 0)
    if loaded.head == "classifier":
        config.pad_token_id = pad
    return pad
