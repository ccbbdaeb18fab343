"""PyTorch on cpu, cuda and mps: any language model of transformers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zoplat.blocks import Part
from zoplat.device import Device, Example, Head, MemoryReading, ModelSpec, Row, Session
from zoplat.direction import Direction
from zoplat.errors import ZoplatError
from zoplat.hookspecs import hookimpl
from zoplat.rounding import Rounding
from zoplat.sampler import Sampler
from zoplat.space import Restore
from zoplat_devices.memory import HostMemory

if TYPE_CHECKING:
    from zoplat_devices.models import Loaded

FEW = 128
"""Tokens of a batch up to which low-rank side terms cost less than passes over all weights."""

COMPILER = "inductor"
"""Of torch.compile."""

ADAPTERS = ("lora", "dora", "ia3", "prefix", "prompt")


@dataclass(frozen=True)
class PyTorch(Device):
    """PyTorch, with models of transformers.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        restore: "in-place" writes probes into the weights and takes them back; "exact" forms the probed weights of
            a layer while it runs, so that the weights stay at θ; "auto" is exact for 16-bit weights.
        rounding: of updates to 16-bit weights: "nearest"; "stochastic", up or down by chance, so that small ones
            add up; "master", from a float32 copy of what is trained. The latter two need exact restore; "auto" is
            stochastic where restore is exact.
        road: how several losses that are asked together are found: "walk" from point to point; "batch", by one
            forward pass over as many copies of the batch; "auto" takes the latter for adapters, and for low-rank
            directions on batches of up to 128 tokens. "stream" keeps the weights in files and goes layer by layer, for
            models larger than memory; on the processor only.
        state: where methods that keep something for each weight have it, such as momentum or curvature: in "memory", or
            on "disk", block by block in memory while it is used; the latter on the processor only.
        threads: of the processor; 0 for all that the process may use.
        tf32: whether CUDA may round the inputs of matrix products to 10 bits.
        compile: whether torch.compile makes the forward pass; for in-place restore, walking.
        graphs: whether CUDA records the forward pass of each shape of batch and plays it again; likewise.
    """

    answers: ClassVar[frozenset[str]] = frozenset(
        {"losses", "jvp", "gradient", "input norms", "generation", "features"}
    )

    kind: Literal["cpu", "cuda", "mps"] = field(default="cpu", metadata={"setting": False})
    restore: Literal["auto", "in-place", "exact"] = "auto"
    rounding: Literal["auto", "nearest", "stochastic", "master"] = "auto"
    road: Literal["auto", "walk", "batch", "stream"] = "auto"
    state: Literal["memory", "disk"] = "memory"
    threads: int = 0
    tf32: bool = False
    compile: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        for name, value in (("road", "stream"), ("state", "disk")):
            if getattr(self, name) == value and self.kind != "cpu":
                raise ZoplatError(f"{name}={value} is for --device cpu, not '{self.kind}'  (-o device.{name}=…)")
        if self.road == "stream" and self.restore == "in-place":
            raise ZoplatError(
                "road=stream never writes a probe into the weights. Leave -o device.restore=in-place out."
            )
        if self.road == "stream" and self.rounding == "master":
            raise ZoplatError(
                "road=stream keeps no copy of the weights in memory, which rounding=master would need. "
                "Use -o device.rounding=stochastic, or --dtype float32."
            )

    @property
    def summary(self) -> str:
        return f"PyTorch on {self.kind}, with any language model of transformers"

    @property
    def priority(self) -> int:
        return ("cpu", "mps", "cuda").index(self.kind)

    def missing(self) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return f"Device '{self.kind}' needs torch, which is not installed: pip install torch."
        import torch

        present = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }[self.kind]
        return None if present else f"torch {torch.__version__} finds no '{self.kind}' here. Use --device cpu."

    def open(self, spec: ModelSpec) -> PyTorchSession:
        self._check_forward()
        return PyTorchSession(self, spec)

    def _check_forward(self) -> None:
        """Raise ZoplatError where a forward pass can't be made as it is asked for."""
        if self.graphs and self.kind != "cuda":
            raise ZoplatError(
                f"-o device.graphs=true records CUDA graphs, and device '{self.kind}' has none. Leave it out, or use "
                "--device cuda."
            )
        if self.graphs and self.compile:
            raise ZoplatError(
                "-o device.graphs=true and -o device.compile=true don't go together. Leave one of them out."
            )
        if (asked := _fixed_pass(self)) and self.road in ("batch", "stream"):
            raise ZoplatError(
                f"{asked} can't follow road={self.road}, which changes what layers do. Use -o device.road=walk."
            )


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
        from zoplat_devices import about, models, virtual
        from zoplat_devices.branches import Branches
        from zoplat_devices.derivatives import Derivatives
        from zoplat_devices.encoding import Encoder
        from zoplat_devices.heads import reads_on
        from zoplat_devices.mapped import let_go, move_to_files
        from zoplat_devices.pages import onto_large_pages
        from zoplat_devices.probes import Probes
        from zoplat_devices.scoring import Scorer
        from zoplat_devices.spaces import space_for
        from zoplat_devices.streaming import Streaming
        from zoplat_devices.tuning import blocks, tuned
        from zoplat_devices.writing import Writer

        self.torch = torch
        self.before = self.host.now()

        def dtype(head: Head) -> Any:
            return getattr(torch, _dtype(spec, device.kind, head))

        load, streamed = load or models.load, device.road == "stream"
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
        rounding: Rounding = "stochastic" if narrow and restore == "exact" else "nearest"
        if device.rounding != "auto":
            rounding = device.rounding
        self.kernels = -self.host.now()
        self.space = space_for(trained, device.kind, restore, rounding, self.empty, self.mapped, spec.seed)
        if device.kind == "cpu":
            self.space.let_go = let_go
        self.space.weights_in_files, self.space.state_in_files = streamed, streamed or device.state == "disk"
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
        self.may_choose = device.road == "auto" and self.head != "seq2seq" and not _fixed_pass(device)
        self.road: str = "walk" if device.road == "auto" else device.road
        if self.may_choose and spec.tune.name in ADAPTERS and self.can_batch:
            self.road = "batch"
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
            "kernels": type(getattr(self.space, "kernels", self.space)).__name__,
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
        from zoplat_devices.mapped import mapped

        return mapped(shape, getattr(self.torch, dtype))

    def _prepare_forward(self, device: PyTorch) -> None:
        """Compile or record what finds the loss, if that is asked for."""
        if device.compile:
            self.scorer.run = self.torch.compile(self.scorer.run, backend=COMPILER)
        if device.graphs:
            from zoplat_devices.graphs import CudaRecorder, Graphs

            self.scorer.mean = Graphs(self.scorer.mean, CudaRecorder())

    @cached_property
    def can_batch(self) -> bool:
        """Whether all uses of what is trained can be followed, by a trial on a small batch."""
        try:
            self.stacked.check(self.encode([Example("It was", (" good", " bad"), 0, suffix=" .")]))
        except ZoplatError:
            return False
        return True

    def road_along(self, law: Sampler | None, tokens: float) -> str:
        """Also by batches where directions have factors and rows are few: then moving the weights costs more.

        Adapters go by batches whatever is asked. Figures are in docs/explanation/roads.md.
        """
        is_wide = any(len(block.shape) == 2 and block.dtype == "float32" for block in self.space.blocks)
        if not (self.may_choose and self.target.type == "cpu" and law and is_wide and tokens <= FEW):
            return self.road
        return "batch" if self.space.is_low_rank(law) and self.can_batch else self.road

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return self.encoder.encode(examples)

    def forward(self, rows: Sequence[Row]) -> float:
        with self._probed():
            return self.scorer.loss(rows)

    def branches(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        if self.streaming:
            return self.streaming.losses(rows, directions)
        if self.head == "seq2seq":
            raise ZoplatError("The batched road can't follow seq2seq models. Use -o device.road=walk.")
        return self.stacked.losses(rows, directions)

    def jvp(self, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        return self.derivatives.along(direction, lambda: self.scorer.mean_loss(rows))

    def gradient(self, rows: Sequence[Row], part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        return self.derivatives.backward(part, recompute, lambda: self.scorer.mean_loss(rows))

    def input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        with self.scorer.plainly():
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
            **({"window of the streaming road": self.streaming.bytes} if self.streaming else {}),
            "noise kernels": max(0, self.kernels),
            **{buffer.owner: buffer.bytes for buffer in self.space.buffers},
            "scratch": self.space.scratch_bytes + (self.probes.bytes if self.probes else 0) + self.stacked.bytes,
        }

    def digest(self) -> str:
        digest = sha256()
        for block in self.space.blocks:
            digest.update(block.array.reshape(-1).view(self.torch.uint8).cpu().numpy().data)
            self.space.leave(block)
        return f"sha256:{digest.hexdigest()}"

    def _leave(self) -> None:
        """All weights were read."""
        for block in self.space.blocks:
            self.space.leave(block)

    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(arrays, path)
        self._leave()

    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name, array in arrays.items():
                array.copy_(file.get_tensor(name))
        self._leave()

    def export(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.loaded.tokenizer.save_pretrained(directory)

    @contextmanager
    def _probed(self) -> Iterator[None]:
        if self.probes is None or not self.space.overlay:
            yield
            return
        with self.probes.active():
            yield


def _fixed_pass(device: PyTorch) -> str:
    """The setting that has the forward pass made beforehand; empty where none does."""
    return "-o device.compile=true" if device.compile else "-o device.graphs=true" if device.graphs else ""


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


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {kind: PyTorch(kind) for kind in ("cpu", "cuda", "mps")}
