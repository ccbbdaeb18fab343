"""What encodes text for a model whose weights are not read: its configuration, its tokenizer and an empty model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoplat.core.example import Example, Row
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.pytorch import chat
from zoplat_devices.pytorch.heads import AUTO_CLASSES, head_of
from zoplat_devices.pytorch.loaded import Loaded, embeddings, token_limit
from zoplat_devices.pytorch.quiet import notice, quiet
from zoplat_devices.pytorch.screening import screen, trust
from zoplat_devices.pytorch.settings import PyTorchSettings
from zoplat_devices.pytorch.sources import DEFAULT, base_of, is_adapter, load_errors, present
from zoplat_devices.pytorch.tuning import VIRTUAL, check_tuning
from zoplat_devices.text.encoding import Encoder


class TextReader:
    """Encodes text as a session of a model would.

    Args:
        name: of the model, as the user gave it.
        tokenizer: of the model.
        encoder: text to tokens.

    Attributes:
        head: of the model.
    """

    def __init__(self, name: str, tokenizer: Any, encoder: Encoder) -> None:
        self.name, self.tokenizer, self.encoder = name, tokenizer, encoder
        self.head = encoder.head

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """As `Session.encode`."""
        return self.encoder.encode(examples)

    def chat(self, prompts: Sequence[str]) -> list[str]:
        """As `Session.chat`."""
        return chat.turns(self.tokenizer, prompts, self.name)


def text_reader(settings: PyTorchSettings, spec: ModelSpec) -> TextReader | None:
    """The reader of a model that is on this machine; None, with a notice, for one that is not.

    Raises:
        ZoplatError: there is no such model, it has not that head, or nothing of it is trained.
    """
    name = spec.model or DEFAULT
    source = present(name)
    if source is None:
        notice(f"Note: the model {name} is not on this machine yet, so its tokenizer and names were not tried.")
        return None
    source = base_of(source) if is_adapter(source) else source
    screen(source, name)
    import torch
    import transformers

    with quiet(), load_errors(name):
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=True, **trust())
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True, **trust())
        head = head_of(config, spec.head)
        if head == "classifier" and spec.classes:
            config.num_labels = spec.classes
        with torch.device("meta"):
            model = getattr(transformers, AUTO_CLASSES[head][0]).from_config(config, **trust())
    loaded = Loaded(model, tokenizer, name, None, head)
    check_tuning(loaded, spec.tune)
    start = config.decoder_start_token_id if head == "seq2seq" else None
    limit = token_limit(loaded, spec.tune.tokens if spec.tune.name in VIRTUAL else 0, settings.max_tokens)
    return TextReader(name, tokenizer, Encoder(tokenizer, limit, head, start, config.num_labels, embeddings(model)))
