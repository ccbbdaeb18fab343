"""The head of a model: which class of transformers opens a checkpoint, and which parameters it lacks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Base, Head
from zoplat_devices.pytorch.hiding import import_without_compiler, marks_ignored
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.screening import trust

AUTO_CLASSES: dict[Head, tuple[str, str]] = {
    "classifier": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "seq2seq": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "masked": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
}
"""Head → auto class that opens it, and its table of architectures in transformers; in the order they are tried."""


def head_of(config: Any, asked: Head) -> Head:
    """The head that was asked for, or else the one that a configuration names.

    Raises:
        ZoplatError: there is no class of transformers for it.
    """
    known = _classes_by_head(config.model_type)
    own = getattr(config, "auto_map", None) or {}
    if trust()["trust_remote_code"] and isinstance(own, dict):  # classes that come with the checkpoint
        known |= {head: (str(own[auto]).rpartition(".")[2],) for head, (auto, _) in AUTO_CLASSES.items() if auto in own}
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


def is_autoregressive(config: Any) -> bool:
    """Whether a model of this type attends from left to right only, so that its last token has seen all others."""
    known = _classes_by_head(config.model_type)
    return "causal" in known and "masked" not in known


def opened(
    source: str, config: Any, head: Head, dtype: Any, classes: int, seed: int, base: Base = "plain"
) -> tuple[Any, frozenset[str]]:
    """(model, names of its parameters that are not in the checkpoint), on the host.

    Only a classifier may have new parameters. They are drawn from `seed`; the global random state does not change.

    Raises:
        ZoplatError: the checkpoint does not fit the head.
    """
    import torch
    import transformers

    if head == "classifier":
        _set_classes(config, classes)
    auto = getattr(transformers, AUTO_CLASSES[head][0])
    with torch.random.fork_rng(), marks_ignored():
        torch.manual_seed(seed)
        model, report = auto.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **_quantisation(base),
            **trust(),
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


def _quantisation(base: Base) -> dict[str, Any]:
    """Arguments of `from_pretrained` for how frozen weights are stored."""
    if base != "int8":  # those of 4 bits are packed once they are there
        return {}
    from transformers import TorchAoConfig

    try:
        with quiet():
            import_without_compiler("torchao.quantization")
            from torchao.quantization import Int8WeightOnlyConfig
    except ImportError:
        raise ZoplatError(
            "--base int8 on PyTorch needs torchao, which is not installed: pip install 'zoplat[quant]'. "
            "A run of a bundle is replayed without it by `zoplat-edge replay BUNDLE RUN`."
        ) from None
    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}


def _set_classes(config: Any, classes: int) -> None:
    """Give a new classification head the classes of the task, or check those that the checkpoint has."""
    saved = _is_saved_classifier(config)
    if saved and classes and config.num_labels != classes:
        raise ZoplatError(
            f"The checkpoint is a classifier of {config.num_labels} classes; the task has {classes}. "
            "Use a checkpoint without a classification head, or a task of its own classes."
        )
    if not saved and not classes:
        raise ZoplatError(
            "--head classifier: the task has no classes of its own; its options differ by row. Use another --head."
        )
    if not saved:
        config.num_labels = classes


def class_order(config: Any, names: Sequence[Sequence[str]]) -> tuple[int, ...] | None:
    """For each class of a task, the class of a saved classifier that has its name; None where they are in order.

    Args:
        config: of the model; numbers, and names such as LABEL_0, say nothing but the order.
        names: what each class of the task may be called.

    Raises:
        ZoplatError: the names of the two differ.
    """
    saved = [str(config.id2label[i]) for i in sorted(config.id2label)] if _is_saved_classifier(config) else []
    numbers = [int(one) for one in (re.sub("(?i)^label_?", "", name) for name in saved) if one.isdecimal()]
    if not names or len(saved) != len(names) or (len(numbers) == len(saved) and numbers == sorted(numbers)):
        return None
    known = [{_plain(one) for one in (*some, str(i), f"label_{i}")} for i, some in enumerate(names)]
    order = [[i for i, one in enumerate(saved) if _plain(one) in some] for some in known]
    if any(len(found) != 1 for found in order) or len({found[0] for found in order}) < len(names):
        raise ZoplatError(
            f"The checkpoint is a classifier of {', '.join(saved)}; the classes of the task are "
            f"{', '.join(some[0] for some in names)}. Which is which is not known: give them the same names, in "
            "id2label of the checkpoint's config.json or in the options of a task file."
        )
    return None if [found[0] for found in order] == [*range(len(names))] else tuple(found[0] for found in order)


def _plain(name: str) -> str:
    """A name of a class without case, blanks and punctuation."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _is_saved_classifier(config: Any) -> bool:
    return str((config.architectures or [""])[0]).endswith("ForSequenceClassification")


def _classes_by_head(model_type: str) -> dict[Head, tuple[str, ...]]:
    """The heads that transformers has for a type of model, and the classes with each."""
    from transformers.models.auto import modeling_auto

    found: dict[Head, tuple[str, ...]] = {}
    for head, (_, table) in AUTO_CLASSES.items():
        classes = dict(getattr(modeling_auto, table)).get(model_type)
        if classes:
            found[head] = (classes,) if isinstance(classes, str) else tuple(classes)
    return found


def head_modules(model: Any, new: Iterable[str]) -> list[str]:
    """Names of the modules on top of a classifier's backbone, and of its pooler where that is new."""
    backbone = model.base_model_prefix
    names = [
        name for name, module in model.named_children() if name != backbone and any(True for _ in module.parameters())
    ]
    if not hasattr(model, backbone):
        names = [name for name in names if name in ("classifier", "score", "classification_head")]
    pooled = any(".pooler." in name for name in new)
    return [*names, f"{backbone}.pooler"] if pooled else names
