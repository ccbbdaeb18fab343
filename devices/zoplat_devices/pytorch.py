"""PyTorch on cpu, cuda and mps: any causal language model of transformers."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

from zoplat.device import Device, Example, MemoryReading, ModelSpec, Row, Session
from zoplat.direction import Direction
from zoplat.errors import ZoplatError
from zoplat.hookspecs import hookimpl
from zoplat.sampler import Noise, Stream
from zoplat.space import Block, ParameterSpace, Part, Restore
from zoplat_devices.memory import HostMemory, mapped


@dataclass(frozen=True)
class PyTorch(Device):
    """PyTorch, with models of transformers.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        restore: "in-place" writes probes into the weights and takes them back; "exact" forms the probed weights of
            a layer while it runs, so that the weights stay at θ; "auto" is exact for 16-bit weights.
        road: how several losses that are asked together are found: "walk" from point to point, or "batch", by one
            forward pass over as many copies of the batch.
        threads: of the processor; 0 for all that the process may use.
        tf32: whether CUDA may round the inputs of matrix products to 10 bits.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses", "jvp", "gradient", "input norms"})

    kind: Literal["cpu", "cuda", "mps"] = field(default="cpu", metadata={"setting": False})
    restore: Literal["auto", "in-place", "exact"] = "auto"
    road: Literal["auto", "walk", "batch"] = "auto"
    threads: int = 0
    tf32: bool = False

    @property
    def summary(self) -> str:
        return f"PyTorch on {self.kind}, with any causal language model of transformers"

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
        return PyTorchSession(self, spec)


class PyTorchSession(Session):
    """A model of transformers, opened."""

    def __init__(self, device: PyTorch, spec: ModelSpec) -> None:
        self.host = HostMemory()
        import torch

        if device.threads:
            torch.set_num_threads(device.threads)
        torch.backends.cuda.matmul.allow_tf32 = device.tf32
        from zoplat_devices.branches import Branches
        from zoplat_devices.derivatives import Derivatives
        from zoplat_devices.models import load
        from zoplat_devices.scoring import Encoder, Scorer

        self.torch = torch
        self.before = self.host.now()
        dtype = _dtype(spec, device.kind) if spec.dtype == "auto" else spec.dtype
        self.loaded = load(spec.model, getattr(torch, dtype), _say)
        self.target = torch.device(device.kind)
        self.model = _tuned(self.loaded.model, spec, torch).to(self.target)
        blocks = _blocks(device, self.model)
        trainable = blocks[0].dtype
        restore: Restore = "exact" if trainable in ("float16", "bfloat16") else "in-place"
        if device.restore != "auto":
            restore = device.restore
        self.kernels = -self.host.now()
        self.space = _space(blocks, device.kind, restore, self.empty, self.mapped)
        self.kernels += self.host.now()
        self.probes = _Probes(self.model, self.space) if restore == "exact" else None
        self.encoder = Encoder(self.loaded.tokenizer, _limit(self.loaded))
        self.scorer = Scorer(self.model, self.target)
        self.derivatives = Derivatives(self.model, self.space)
        self.stacked = Branches(self.model, self.space, self.scorer)
        self.road = "walk" if device.road == "auto" else device.road
        self.facts = {
            "device": device.kind,
            "model": self.loaded.name,
            "model_identity": self.loaded.identity,
            "dtype": dtype,
            "trainable_dtype": trainable,
            "restore": restore,
            "trainable_parameters": self.space.size,
            "model_bytes": _bytes(self.model),
            "threads": torch.get_num_threads(),
            "kernels": type(self.space).__name__,
            "memory_counter": self.host.method,
            "versions": _versions(),
            "accelerator": _accelerator(device.kind),
        }

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new tensor on the device, one that may be edited at any time."""
        with self.torch.inference_mode(False):
            return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=self.target)

    def mapped(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor of the host in a file without a name."""
        return self.torch.from_numpy(mapped(shape, dtype))

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return self.encoder.encode(examples)

    def forward(self, rows: Sequence[Row]) -> float:
        with self._probed():
            return self.scorer.loss(rows)

    def branches(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        return self.stacked.losses(rows, directions)

    def jvp(self, rows: Sequence[Row], direction: Direction) -> tuple[float, float]:
        return self.derivatives.along(direction, lambda: self.scorer.mean_loss(rows))

    def gradient(self, rows: Sequence[Row], part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        return self.derivatives.backward(part, recompute, lambda: self.scorer.mean_loss(rows))

    def input_norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        return self.derivatives.input_norms(self.scorer.present(rows), lambda: self.scorer.loss(rows))

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        with self._probed():
            return self.scorer.scores(rows)

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
        return {
            "python, torch and transformers": self.before,
            "trainable weights": trainable,
            "frozen weights": self.facts["model_bytes"] - trainable,
            "noise kernels": max(0, self.kernels),
            **{buffer.owner: buffer.bytes for buffer in self.space.buffers},
            "scratch": self.space.scratch_bytes + (self.probes.bytes if self.probes else 0) + self.stacked.bytes,
        }

    def digest(self) -> str:
        digest = sha256()
        for block in self.space.blocks:
            digest.update(block.array.reshape(-1).view(self.torch.uint8).cpu().numpy().data)
        return f"sha256:{digest.hexdigest()}"

    def write(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(arrays, path)

    def read(self, path: Path, arrays: dict[str, Any]) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name, array in arrays.items():
                array.copy_(file.get_tensor(name))

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


class _Probes:
    """Exact restore: while a layer runs, its parameters point to a scratch array that holds θ + probe."""

    def __init__(self, model: Any, space: ParameterSpace) -> None:
        self.space = space
        self.pool: dict[tuple[Any, ...], list[Any]] = {}
        self.bytes = 0
        self.on = False
        self.formed: set[str] = set()
        blocks = {block.array.data_ptr(): block for block in space.blocks}
        for module in model.modules():
            owned = [(p, blocks[p.data_ptr()]) for p in module.parameters(recurse=False) if p.data_ptr() in blocks]
            if owned:
                module.register_forward_pre_hook(self._swap(owned))
                module.register_forward_hook(self._back(owned), always_call=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        self.on, self.formed = True, set()
        try:
            yield
        finally:
            self.on = False
        missed = {block.name for block in self.space.blocks} - self.formed
        if missed:
            raise ZoplatError(
                f"Restore 'exact' could not form {min(missed)}: the model uses it outside the module that owns it. "
                "Use -o device.restore=in-place, or leave it out of --tune."
            )

    def _swap(self, owned: list[tuple[Any, Block]]) -> Callable[..., None]:
        def hook(module: Any, inputs: Any) -> None:
            if not self.on:
                return
            for parameter, block in owned:
                scratch = self._take(parameter)
                self.space.form(block, self.space.overlay, scratch.view(block.shape))
                self.formed.add(block.name)
                parameter.data = scratch

        return hook

    def _back(self, owned: list[tuple[Any, Block]]) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not self.on:
                return
            for parameter, block in owned:
                self.pool[_like(parameter)].append(parameter.data)
                parameter.data = block.array.view(parameter.shape)

        return hook

    def _take(self, parameter: Any) -> Any:
        free = self.pool.setdefault(_like(parameter), [])
        if not free:
            free.append(parameter.data.clone())
            self.bytes += int(parameter.nbytes)
        return free.pop()


def _like(parameter: Any) -> tuple[Any, ...]:
    return (tuple(parameter.shape), parameter.dtype)


class TorchNoise(Noise):
    """Numbers made on the host, moved to where the weights are."""

    def __init__(self, inner: Noise, device: Any, torch: Any) -> None:
        self.inner, self.device, self.torch = inner, device, torch

    def numbers(self, law: str, stream: Stream, first: int, shape: tuple[int, ...]) -> Any:
        return self.torch.as_tensor(self.inner.numbers(law, stream, first, shape), device=self.device)


def _space(
    blocks: list[Block], kind: str, restore: Restore, empty: Callable[..., Any], mapped: Callable[..., Any]
) -> ParameterSpace:
    import torch

    from zoplat_devices.host import HostNoise, HostSpace
    from zoplat_devices.native import library
    from zoplat_devices.noise import ReferenceNoise

    kernels = library()
    if kernels is None:
        _say("no C compiler is at hand (pip install ziglang): numpy makes the random numbers, the same but slowly")
    if kernels and kind == "cpu" and all(block.dtype != "float64" for block in blocks):
        return HostSpace(blocks, kernels, empty, restore, mapped)

    def on_host(shape: tuple[int, ...], dtype: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    inner = HostNoise(kernels, on_host) if kernels else ReferenceNoise()
    return ParameterSpace(blocks, TorchNoise(inner, kind, torch), empty, restore, mapped)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _dtype(spec: ModelSpec, kind: str) -> str:
    """A frozen base in bfloat16 where the device multiplies in it natively, float32 for all else."""
    import torch

    cpu = kind == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if spec.tune.name == "lora" and (cpu or kind == "cuda") else "float32"


def _tuned(model: Any, spec: ModelSpec, torch: Any) -> Any:
    """Mark what is trainable; wrap the model where that needs adapters."""
    if spec.tune.name == "full":
        return model.requires_grad_(True)
    if spec.tune.name == "lora":
        return _with_lora(model, spec, torch)
    try:
        pattern = re.compile(spec.tune.name)
    except re.error as problem:
        raise ZoplatError(f"--tune {spec.tune.name}: not full, lora or a regular expression ({problem}).") from None
    names = [name for name, parameter in model.named_parameters() if pattern.search(name)]
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    if not names:
        example = next(name for name, _ in model.named_parameters())
        raise ZoplatError(f"--tune {spec.tune.name} finds no parameter of the model; they are named like {example}.")
    return model


def _with_lora(model: Any, spec: ModelSpec, torch: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    tune = spec.tune
    targets = rf".*\.({tune.targets})" if tune.targets else None
    config = LoraConfig(r=tune.rank, lora_alpha=tune.alpha, target_modules=targets, task_type="CAUSAL_LM")
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's own business with transformers
            torch.manual_seed(spec.seed)
            return get_peft_model(model, config)
    except ValueError as problem:
        first = str(problem).partition("\n")[0]
        raise ZoplatError(f"--tune lora: peft can't place adapters: {first}  (-o tune.targets=REGEX)") from problem


def _blocks(device: Device, model: Any) -> list[Block]:
    """The trainable tensors, each storage once, in registration order."""
    blocks = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = name.removeprefix("base_model.model.").replace(".default.", ".")
            layer = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{plain}")
            dtype = str(parameter.dtype).removeprefix("torch.")
            blocks.append(device.block(plain, parameter.detach(), dtype, int(layer.group(1)) if layer else None))
    return blocks


def _limit(loaded: Any) -> int:
    places = getattr(loaded.model.config, "max_position_embeddings", None) or 1 << 30
    return int(min(places, loaded.tokenizer.model_max_length or places, 2048))


def _bytes(model: Any) -> int:
    tensors = {tensor.data_ptr(): int(tensor.nbytes) for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensors.values())


def _versions() -> dict[str, str]:
    from importlib import metadata

    names = ("zoplat", "torch", "transformers", "tokenizers", "peft", "numpy", "safetensors")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "python": ".".join(str(part) for part in sys.version_info[:3]), "system": os.uname().sysname}


def _accelerator(kind: str) -> dict[str, Any] | None:
    """Name, driver and memory of the GPU, by NVML."""
    if kind != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "name": str(pynvml.nvmlDeviceGetName(handle)),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        }
    except (ImportError, pynvml.NVMLError):
        return None


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {kind: PyTorch(kind) for kind in ("cpu", "cuda", "mps")}
