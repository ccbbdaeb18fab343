"""A model and its tokenizer as they were loaded, and what their configuration says about sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoplat.core.model_spec import Head

MAX_TOKENS = 2048
"""Cap on the tokens of a sequence, also for models that could read more."""


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


def token_limit(loaded: Loaded, virtual: int) -> int:
    """Tokens of text that the model can read beside so many virtual ones."""
    import torch

    config = loaded.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    for name, module in loaded.model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # some families number the positions from padding_idx + 1 on
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            positions = min(positions, module.num_embeddings - offset)
    return int(min(positions, loaded.tokenizer.model_max_length or positions, MAX_TOKENS)) - virtual


def padding_token(loaded: Loaded) -> int:
    """Id of the token that pads rows; set in a classifier's configuration too, which finds its last token by it."""
    tokenizer, config = loaded.tokenizer, loaded.model.config.get_text_config()
    if loaded.head == "causal":
        return 0
    known = [config.pad_token_id, tokenizer.pad_token_id] if loaded.head == "classifier" else [tokenizer.pad_token_id]
    pad = next((int(id_) for id_ in [*known, tokenizer.eos_token_id] if id_ is not None), 0)
    if loaded.head == "classifier":
        config.pad_token_id = pad
    return pad
