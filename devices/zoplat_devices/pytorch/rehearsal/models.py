"""A model without weights: from its configuration, on the meta device, in the precision that it would be loaded in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Head, ModelSpec
from zoplat_devices.pytorch.heads import AUTO_CLASSES, head_of
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.precision import base_dtype
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.screening import check_gguf, screen, trust
from zoplat_devices.pytorch.sources import DEFAULT, base_of, check_online, is_adapter, load_errors, present


def shaped(spec: ModelSpec, kind: str, tokenizes: bool = True) -> tuple[Loaded, int]:
    """A model whose parameters have shapes and no entries; only its configuration and its tokenizer are read.

    Args:
        spec: which model. A checkpoint folder needs no weights here; of a hub id a few small files are fetched.
        kind: of the device that it is meant for.
        tokenizes: whether the tokenizer is needed.

    Returns:
        (the model, bytes of its file that are read into memory and converted; 0 where the file is used as it is)

    Raises:
        ZoplatError: there is no such model, or it has not that head.
    """
    import torch
    import transformers

    name = spec.model or DEFAULT
    source, more = _source(name)
    screen(source, name)
    with quiet(), load_errors(name):
        config = transformers.AutoConfig.from_pretrained(source, **more, **trust())
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **more, **trust()) if tokenizes else None
        head = head_of(config, spec.head)
        if head == "classifier" and spec.classes:
            config.num_labels = spec.classes
        stored, dtype = config.dtype or torch.float32, getattr(torch, base_dtype(spec, kind, head))
        model = _empty(config, head, dtype)
        copies = {stored, dtype} if spec.base == "int8" else {stored} - {dtype}  # beside the model that stays
        read = sum(p.numel() for p in model.parameters()) * sum(copy.itemsize for copy in copies)
        if spec.base == "int8":
            _quantise(model)
    return Loaded(model, tokenizer, name, None, head), read if kind == "cpu" else 0


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """(folder or hub id, further arguments of `from_pretrained`) of a model's configuration."""
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").exists():
        return str(path), {"local_files_only": True}
    source = present(name)
    if source is not None:
        whole = base_of(source) if is_adapter(source) else source
        return whole, {"local_files_only": True}
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


def _empty(config: Any, head: Head, dtype: Any) -> Any:
    """A model of transformers on the meta device."""
    import torch
    import transformers

    config.dtype, before = dtype, torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            model = getattr(transformers, AUTO_CLASSES[head][0]).from_config(config, **trust())
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()  # which older versions leave out on this device
    return model.eval().requires_grad_(False)


def _quantise(model: Any) -> None:
    """Replace the weights of linear layers but for the head by 8-bit ones, as transformers does when it loads them."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ZoplatError("--base int8 needs a package that is not installed: pip install 'zoplat[quant]'") from None
    import torch

    kept = model.get_output_embeddings()
    quantize_(model, Int8WeightOnlyConfig(), lambda part, _: isinstance(part, torch.nn.Linear) and part is not kept)
