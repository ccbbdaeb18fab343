"""Loading models of text from safetensors: configuration, weights and tokenizer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Base, Head
from zoplat_devices.pytorch.digests import identity_of, model_digest_of
from zoplat_devices.pytorch.heads import class_order, head_of, opened
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.packed import pack
from zoplat_devices.pytorch.pieces import pieces
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.screening import load_errors, screen, trust
from zoplat_devices.pytorch.sources import DEFAULT, base_of, is_adapter, locate
from zoplat_devices.pytorch.unloaded import empty_model

GIB = 1 << 30


def load(
    model: str | None,
    dtype: Any,
    notice: Callable[[str], None],
    head: Head = "auto",
    classes: int = 0,
    seed: int = 0,
    base: Base = "plain",
    streamed: bool = False,
    class_names: Sequence[Sequence[str]] = (),
) -> Loaded:
    """Load a model of text on the host, in evaluation mode, nothing trainable.

    Args:
        model: as `ModelSpec` has it.
        dtype: of its weights, or a function from its head to the dtype.
        notice: is called with what the user should know.
        head: what it should make of a text; "auto" for what its configuration says.
        classes: of a new classification head.
        seed: of the weights of a new head.
        base: how frozen weights are stored.
        streamed: leave the weights in the checkpoint's files until they are used.
        class_names: what each class of the task is called.

    Raises:
        ZoplatError: it is not there, has no safetensors weights, has not that head, or can't be read.
    """
    name = model or DEFAULT
    source = locate(name, notice)
    whole = locate(base_of(source), notice) if is_adapter(source) else source
    if whole != source and (streamed or base != "plain"):
        raise ZoplatError(
            f"--model {name} is an adapter, and its weights can be merged only into plain ones in memory."
        )
    screen(whole, name)
    with quiet(), load_errors(name):
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(whole, **trust())
        found = head_of(config, head)
        order = class_order(config, class_names) if found == "classifier" else None
        wanted = dtype(found) if callable(dtype) else dtype
        _check_fits(name, config, found, wanted, base, streamed)
        is_piecewise = streamed or base == "int4"  # weights stay in the files that they are mapped from
        loaded, new = opened(whole, config, found, "auto" if is_piecewise else wanted, classes, seed, base)
        if streamed:
            _check_stored_dtype(name, loaded.dtype, wanted)
        tokenizer = AutoTokenizer.from_pretrained(whole, **trust())
        if whole != source:
            loaded = _merged(loaded, source, name)
        if base == "int4":
            pack(loaded, wanted, new)
    _free_imports()
    loaded.eval()
    for parameter in loaded.parameters():
        parameter.requires_grad = False
    commit = getattr(config, "_commit_hash", None)
    identity, digest = identity_of(whole, commit), model_digest_of(whole, commit)
    if whole != source:  # an adapter, merged into its model
        adapter = identity_of(source)
        identity, digest = (f"{one} + {adapter}" if one else None for one in (identity, digest))
    return Loaded(loaded, tokenizer, name, identity, found, new, digest, order)


@cache
def _free_imports() -> None:
    """Once a process: free exceptions of transformers' imports, in cycles that would keep the first run's model."""
    gc.collect()


def _merged(model: Any, adapter: str, name: str) -> Any:
    """A model with the weights of an adapter of peft added to its own; raises ZoplatError where they can't be."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (AttributeError, NotImplementedError) as problem:
        raise ZoplatError(
            f"--model {name}: this adapter can't be merged into its model ({problem}), as prefixes and prompts can't. "
            "Give the model itself."
        ) from problem


def _check_stored_dtype(name: str, stored: Any, wanted: Any) -> None:
    if stored != wanted:
        raise ZoplatError(
            f"--model {name}: its weights are saved in {_plain(stored)}, and strategy=streaming uses them as they "
            f"are in their files. Use --dtype {_plain(stored)}, or save the model in {_plain(wanted)} first."
        )


def _check_fits(name: str, config: Any, head: Head, dtype: Any, base: Base, streamed: bool) -> None:
    """Refuse a model whose weights are more than the memory that is free, before any of them is read.

    A streamed model needs its largest piece twice: as it is stored, and perturbed.
    """
    import psutil

    if base != "plain" or getattr(config, "quantization_config", None):
        return
    model = empty_model(copy(config), head, dtype)
    resident = [2 * _entries(piece) for _, piece in pieces(model)] if streamed else [_entries(model)]
    size, free = max(resident) * dtype.itemsize, psutil.virtual_memory().available
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
