"""What encodes text for a model whose weights are not read: its configuration, its tokenizer and an empty model."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoplat.core.example import Example, Row
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.memory import HostMemory, trim
from zoplat_devices.pytorch import chat
from zoplat_devices.pytorch.lean import import_lean
from zoplat_devices.pytorch.loaded import Loaded, embeddings, token_limit
from zoplat_devices.pytorch.quiet import notice, quiet
from zoplat_devices.pytorch.screening import load_errors, screen
from zoplat_devices.pytorch.settings import PyTorchSettings
from zoplat_devices.pytorch.sources import DEFAULT
from zoplat_devices.pytorch.tuning import check_tuning
from zoplat_devices.pytorch.unloaded import configuration, empty_model, source_here, source_of, tokenizer_of
from zoplat_devices.text.encoding import Encoder


class TextReader:
    """Encodes text as a session of a model would.

    Args:
        name: of the model, as the user gave it.
        tokenizer: of the model.
        encoder: text to tokens.
        libraries: resident bytes of this process with the libraries and the tokenizer.

    Attributes:
        head: of the model.
        can_encode: whether the tokenizer is there.
    """

    can_encode = True

    def __init__(self, name: str, tokenizer: Any, encoder: Encoder, libraries: int = 0) -> None:
        self.name, self.tokenizer, self.encoder, self.libraries = name, tokenizer, encoder, libraries
        self.head = encoder.head

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """As `Session.encode`."""
        return self.encoder.encode(examples)

    def chat(self, prompts: Sequence[str]) -> list[str]:
        """As `Session.chat`."""
        return chat.turns(self.tokenizer, prompts, self.name)

    def release(self) -> None:
        """Give up the tokenizer, but for what the padding of rows depends on."""
        known = self.tokenizer
        self.tokenizer = NoTokenizer(known.model_max_length, known.pad_token_id, known.eos_token_id)
        self.can_encode, self.encoder.tokenizer = False, self.tokenizer
        del known
        gc.collect()  # libraries leave cycles behind when they are imported
        trim()


@dataclass(frozen=True)
class NoTokenizer:
    """In place of a tokenizer, where rows consist of token ids already."""

    model_max_length: int = 0
    pad_token_id: int | None = None
    eos_token_id: int | None = None


def text_reader(settings: PyTorchSettings, spec: ModelSpec, fetches: bool = False) -> TextReader | None:
    """The reader of a model; None, with a notice, for one that is not on this machine.

    Args:
        settings: of the device.
        spec: which model, and what of it is trained.
        fetches: whether the small files of a model that is not on this machine are fetched.

    Raises:
        ZoplatError: there is no such model, it has not that head, or nothing of it is trained.
    """
    name = spec.model or DEFAULT
    source = source_of(name) if fetches else source_here(name)
    if source is None:
        notice(f"Note: the model {name} is not on this machine yet, so its tokenizer and names were not tried.")
        return None
    screen(source[0], name)
    memory = HostMemory()
    with quiet(), load_errors(name):
        import_lean()
        config, head = configuration(source, spec)
        libraries = memory.now()
        model = empty_model(config, head, torch.float32)  # which imports what a run does not
        before = memory.now()
        tokenizer = tokenizer_of(source)
        trim()  # of what reading it has taken, half is free
        libraries += memory.now() - before
    loaded = Loaded(model, tokenizer, name, None, head)
    check_tuning(loaded, spec.tune)
    start = config.decoder_start_token_id if head == "seq2seq" else None
    limit = token_limit(loaded, spec.tune.virtual_tokens, settings.max_tokens)
    encoder = Encoder(tokenizer, limit, head, start, config.num_labels, embeddings(model))
    return TextReader(name, tokenizer, encoder, libraries)
