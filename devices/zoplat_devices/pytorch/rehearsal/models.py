"""A model without weights: from its configuration, on the meta device, in the precision that it would be loaded in."""

from __future__ import annotations

from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.pytorch.hiding import import_without_compiler, marks_ignored
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.packed import pack
from zoplat_devices.pytorch.precision import base_dtype
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.screening import load_errors, screen
from zoplat_devices.pytorch.sources import DEFAULT
from zoplat_devices.pytorch.unloaded import configuration, empty_model, source_of


def shaped(spec: ModelSpec, kind: str, tokenizer: Any) -> tuple[Loaded, int]:
    """A model whose parameters have shapes and no entries; only its configuration is read.

    Args:
        spec: which model. A checkpoint folder needs no weights here; of a hub id a few small files are fetched.
        kind: of the device that it is meant for.
        tokenizer: of the model.

    Returns:
        (the model, bytes of its file that are read into memory and converted; 0 where the file is used as it is)

    Raises:
        ZoplatError: there is no such model, or it has not that head.
    """
    import torch

    name = spec.model or DEFAULT
    source = source_of(name)
    screen(source[0], name)
    with quiet(), load_errors(name):
        config, head = configuration(source, spec)
        stored, dtype = config.dtype or torch.float32, getattr(torch, base_dtype(spec, kind, head))
        model = empty_model(config, head, dtype)
        copies = {stored, dtype} if spec.base == "int8" else {stored} - {dtype}  # beside the model that stays
        read = sum(p.numel() for p in model.parameters()) * sum(copy.itemsize for copy in copies)
        if spec.base == "int8":
            _quantise(model)
        if spec.base == "int4":
            pack(model, dtype)
            read = 0  # layer by layer, out of the mapped file
    return Loaded(model, tokenizer, name, None, head), read if kind == "cpu" else 0


def _quantise(model: Any) -> None:
    """Replace the weights of linear layers but for the head by 8-bit ones, as transformers does when it loads them."""
    try:
        import_without_compiler("torchao.quantization")
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ZoplatError("--base int8 needs torchao, which is not installed: pip install 'zoplat[quant]'") from None

    known = dict[Any, Any]()
    with marks_ignored():
        for part in _layers(model):
            form = part.weight.shape, part.weight.dtype
            if form in known:
                part.weight = _another(known[form])
            else:
                quantize_(part, Int8WeightOnlyConfig())
                known[form] = part.weight


def linear(model: Any) -> dict[str, int]:
    """Weights of the linear layers that a quantised base packs, and those of the largest of them."""
    sizes = [part.in_features * part.out_features for part in _layers(model)]
    return {"linear_parameters": sum(sizes), "largest_linear": max(sizes, default=0)}


def _layers(model: Any) -> list[Any]:
    """The linear layers of a model but for its head; not those of an adapter."""
    import torch

    head = model.get_output_embeddings()
    linears = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    return [part for name, part in linears if part is not head and "lora_" not in name]


def _another(weight: Any) -> Any:
    """A weight like a quantised one of the same shape, with memory of its own."""
    import torch

    names, context = weight.__tensor_flatten__()
    parts = {name: torch.empty_like(getattr(weight, name)) for name in names}
    made = type(weight).__tensor_unflatten__(parts, context, weight.shape, weight.stride())
    return torch.nn.Parameter(made, requires_grad=False)
