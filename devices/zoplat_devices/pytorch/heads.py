"""What a checkpoint makes of a text: which class of transformers opens it, and what of that class is new to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Base, Head
from zoplat_devices.pytorch.quiet import quiet

KINDS: dict[Head, tuple[str, str]] = {
    "classifier": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "seq2seq": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "masked": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
}
"""Head → class that opens it, and table of the architectures that have it; in the order in which they are tried."""


def head_of(config: Any, asked: Head) -> Head:
    """The head that was asked for, or the one of a configuration.

    Raises:
        ZoplatError: the model can't have it.
    """
    known = _possible(config.model_type)
    if asked != "auto":
        if asked not in known:
            others = f"it can be {', '.join(known)}" if known else "it has none of the heads that zoplat knows"
            raise ZoplatError(
                f"--head {asked}: transformers has no such model of type '{config.model_type}'; {others}."
            )
        return asked
    saved = (config.architectures or [""])[0]
    for head, classes in known.items():
        if saved in classes:
            return head
    if config.is_encoder_decoder and "seq2seq" in known:
        return "seq2seq"
    for head in known:
        if head in ("masked", "causal"):
            return head
    raise ZoplatError(
        f"A model of type '{config.model_type}' is neither a causal, a masked nor a seq2seq language model nor a "
        "classifier of texts, as far as transformers knows."
    )


def reads_on(config: Any) -> bool:
    """Whether a model of this type reads from left to right, so that its last token has seen all others."""
    known = _possible(config.model_type)
    return "causal" in known and "masked" not in known


def opened(
    source: str, config: Any, head: Head, dtype: Any, classes: int, seed: int, base: Base = "plain"
) -> tuple[Any, frozenset[str]]:
    """(model, names of its parameters that are not in the checkpoint), on the host.

    Only a classifier may have new parameters; they come from `seed`, the global random state is left alone.

    Raises:
        ZoplatError: the checkpoint does not fit the head.
    """
    import torch
    import transformers

    if head == "classifier":
        _set_classes(config, classes)
    auto = getattr(transformers, KINDS[head][0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, report = auto.from_pretrained(
            source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **_held_as(base)
        )
    missing = frozenset(report["missing_keys"])
    backbone = f"{model.base_model_prefix}."
    foreign = [
        name
        for name in sorted(missing)
        if head != "classifier" or (name.startswith(backbone) and ".pooler." not in name)
    ]
    if foreign:
        raise ZoplatError(
            f"The checkpoint has no {foreign[0]}, which {type(model).__name__} needs (--head {head}). "
            f"It was saved as {(config.architectures or ['a model without a head'])[0]}."
        )
    return model, missing


def _held_as(base: Base) -> dict[str, Any]:
    if base == "plain":
        return {}
    from transformers import TorchAoConfig

    try:
        with quiet():
            from torchao.quantization import Int8WeightOnlyConfig
    except ImportError:
        raise ZoplatError("--base int8 needs a package that is not installed: pip install 'zoplat[quant]'") from None
    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}


def _set_classes(config: Any, classes: int) -> None:
    saved = (config.architectures or [""])[0].endswith("ForSequenceClassification")
    if saved and classes and config.num_labels != classes:
        raise ZoplatError(
            f"The checkpoint is a classifier of {config.num_labels} classes; the task has {classes}. "
            "Use a checkpoint without a classification head, or a task of its own classes."
        )
    if not saved and not classes:
        raise ZoplatError("--head classifier: the task has no classes of its own; its options change from row to row.")
    if not saved:
        config.num_labels = classes


def _possible(model_type: str) -> dict[Head, tuple[str, ...]]:
    """The heads of a type of model, and the classes that have them."""
    from transformers.models.auto import modeling_auto

    found: dict[Head, tuple[str, ...]] = {}
    for head, (_, table) in KINDS.items():
        classes = dict(getattr(modeling_auto, table)).get(model_type)
        if classes:
            found[head] = (classes,) if isinstance(classes, str) else tuple(classes)
    return found


def head_modules(model: Any, new: Iterable[str]) -> list[str]:
    """Names of the modules on top of a classifier's backbone, and of those in it that are new."""
    backbone = model.base_model_prefix
    names = [
        name for name, module in model.named_children() if name != backbone and any(True for _ in module.parameters())
    ]
    if not hasattr(model, backbone):
        names = [name for name in names if name in ("classifier", "score", "classification_head")]
    pooled = any(".pooler." in name for name in new)
    return [*names, f"{backbone}.pooler"] if pooled else names
