"""A model and its tokenizer as they were loaded, and what their configuration says about sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoplat.core.model_spec import Head

MAX_TOKENS = 2048
"""Tokens of a sequence for models that name no limit of their own."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to use.

    Attributes:
        model, tokenizer: of transformers.
        name: as the user gave it.
        identity: a digest of all files of its checkpoint; None when that is not known.
        digest: of its weights and its configuration alone.
        head: what it computes from a text.
        new: names of parameters that the checkpoint does not have, such as those of a new classification head.
        order: for each class of the task, the logit of a classifier that stands for it; None where they are in order.
    """

    model: Any
    tokenizer: Any
    name: str
    identity: str | None
    head: Head = "causal"
    new: frozenset[str] = frozenset()
    digest: str | None = None
    order: tuple[int, ...] | None = None


def token_limit(loaded: Loaded, virtual: int, most: int = 0) -> int:
    """Tokens of text that the model can read beside so many virtual ones.

    Args:
        loaded: the model and its tokenizer, which may name a limit too.
        virtual: number of virtual tokens.
        most: a limit that the user set; 0 for the model's own.
    """
    import torch

    config = loaded.model.config.get_text_config()
    unlimited = 1 << 30
    positions = getattr(config, "max_position_embeddings", None) or unlimited
    for name, module in loaded.model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # some families number the positions from padding_idx + 1 on
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            positions = min(positions, module.num_embeddings - offset)
    own = int(min(positions, loaded.tokenizer.model_max_length or positions))
    own = own if own < unlimited else most or MAX_TOKENS
    return min(own, most or own) - virtual


def embeddings(model: Any) -> int | None:
    """Number of tokens that a model has an embedding for; None where it has no table of them."""
    table = model.get_input_embeddings()
    return int(table.weight.shape[0]) if getattr(table, "weight", None) is not None else None


def padding_token(loaded: Loaded) -> int:
    """Id of the token that pads rows: the first of the usual ones that has an embedding.

    It is set in a classifier's configuration too, which finds its last token by it.
    """
    tokenizer, config = loaded.tokenizer, loaded.model.config.get_text_config()
    if loaded.head == "causal":
        return 0
    known = [config.pad_token_id, tokenizer.pad_token_id] if loaded.head == "classifier" else [tokenizer.pad_token_id]
    most = embeddings(loaded.model)
    ids = [int(id_) for id_ in [*known, tokenizer.eos_token_id] if id_ is not None]
    pad = next((id_ for id_ in ids if most is None or id_ < most), 0)
    if loaded.head == "classifier":
        config.pad_token_id = pad
    return pad
