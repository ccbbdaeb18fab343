"""A model whose weights are not read: where it is, its configuration, and its modules on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Head, ModelSpec
from zoplat_devices.pytorch.heads import AUTO_CLASSES, head_of
from zoplat_devices.pytorch.hiding import marks_ignored
from zoplat_devices.pytorch.screening import check_gguf, trust
from zoplat_devices.pytorch.sources import base_of, check_online, is_adapter, present

Source = tuple[str, Mapping[str, Any]]
"""(folder or hub id, further arguments of `from_pretrained`) of a model's configuration and its tokenizer."""
LOCAL = {"local_files_only": True}


def source_here(name: str) -> Source | None:
    """The source of a model that is on this machine; None for one that is not.

    Raises:
        ZoplatError: there is no such model, or it has no safetensors weights.
    """
    source = present(name)
    return None if source is None else (base_of(source) if is_adapter(source) else source, LOCAL)


def source_of(name: str) -> Source:
    """The source of a model, wherever it is; a checkpoint folder needs no weights, of a hub id small files are fetched.

    Raises:
        ZoplatError: there is no such model.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").exists():
        return str(path), LOCAL
    if source := source_here(name):
        return source
    if name.endswith(".gguf"):
        check_gguf(path)
        return str(path.parent), {"gguf_file": path.name}
    if name.startswith("packaged:"):
        raise ZoplatError(
            f"--model {name}: it has to be converted once before it can be planned; `zoplat eval --model {name} "
            "--limit 1` does that."
        )
    check_online(name)
    return name, {}


def tokenizer_of(source: Source) -> Any:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source[0], **source[1], **trust())


def configuration(source: Source, spec: ModelSpec) -> tuple[Any, Head]:
    """The configuration of a model, with the classes of the task, and its head."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source[0], **source[1], **trust())
    head = head_of(config, spec.head)
    if head == "classifier" and spec.classes:
        config.num_labels = spec.classes
    return config, head


def empty_model(config: Any, head: Head, dtype: Any) -> Any:
    """A model of transformers on the meta device, in one precision."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights  # drawing what has no entries takes a second

    config.dtype, before = dtype, torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"), marks_ignored(), no_init_weights():
            model = getattr(transformers, AUTO_CLASSES[head][0]).from_config(config, **trust())
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()  # which older versions leave out on this device
    return model.eval().requires_grad_(False)
