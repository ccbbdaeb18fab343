"""Virtual tokens: the prefix and the prompt of peft, their initial values, and forward passes with them.

peft's own forward passes drop the positions of a prompt's tokens, which matter where rows are padded on the left, and
take the second output of an encoder for its first when hidden states are requested. So the arguments of the model are
made here; the outputs equal those of peft for a single sequence.
"""

from __future__ import annotations

import inspect
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch.loaded import Loaded

TEXT = "Read what follows with care and say in a word or two what is true of it, and why."
"""The text that virtual tokens start as, repeated where there are more of them."""


def kind(model: Any) -> str:
    """The virtual tokens of a model's adapter: "prefix", "prompt", or "" where it has none."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return ""
    return "prefix" if config.peft_type.value == "PREFIX_TUNING" else "prompt"


def count(model: Any) -> int:
    """Number of virtual tokens before each text."""
    return int(model.active_peft_config.num_virtual_tokens) if kind(model) else 0


def run(model: Any, inputs: dict[str, Any], owner: Any = None) -> Any:
    """The forward pass of a model on padded token ids, virtual tokens first.

    Args:
        model: of transformers, inside an adapter of peft or not.
        inputs: of the model, without virtual tokens.
        owner: for each sequence of a decoder, its row of the encoder's batch; None where each row has one.
    """
    own = kind(model)
    if owner is not None:
        return _run_shared_encoder(model, inputs, owner)
    if not own:
        return model(**inputs)
    return model.get_base_model()(**(with_prompt if own == "prompt" else with_prefix)(model, inputs))


def _run_shared_encoder(model: Any, inputs: dict[str, Any], owner: Any) -> Any:
    """Run a seq2seq model whose encoder reads each row once, for several sequences of its decoder."""
    from transformers.modeling_outputs import BaseModelOutput

    own = kind(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    reads: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    reads = with_prompt(model, reads) if own == "prompt" else reads
    hidden = inner.get_encoder()(**reads).last_hidden_state
    more: dict[str, Any] = {cache_argument(inner): model.get_prompt(len(owner))} if own == "prefix" else {}
    if "attention_mask" in reads:
        more["attention_mask"] = reads["attention_mask"][owner]
    return inner(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden[owner]),
        decoder_input_ids=inputs["decoder_input_ids"],
        use_cache=False,
        **more,
    )


def with_prompt(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the embeddings of the prompt and of the tokens in place of token ids."""
    import torch

    ids, tokens = inputs["input_ids"], count(model)
    places = torch.arange(tokens, device=ids.device).expand(ids.shape[0], tokens)
    words = model.word_embeddings(ids)
    virtual = model.prompt_encoder[model.active_adapter].embedding(places).to(words.dtype)
    made = {name: value for name, value in inputs.items() if name != "input_ids"}
    made["inputs_embeds"] = torch.cat([virtual, words], dim=1)
    if "position_ids" in inputs:
        made["position_ids"] = torch.cat([places, inputs["position_ids"] + tokens], dim=1)
    return _extend_mask(made, tokens)


def with_prefix(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the keys and values of the prefix; a seq2seq model has them in its decoder."""
    tokens = count(model)
    made = {**inputs, cache_argument(model.get_base_model()): model.get_prompt(inputs["input_ids"].shape[0])}
    if "position_ids" in inputs:
        made["position_ids"] = inputs["position_ids"] + tokens
    return made if "decoder_input_ids" in inputs else _extend_mask(made, tokens)


def _extend_mask(inputs: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The attention mask, if there is one, covers the virtual tokens too."""
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"]
        inputs["attention_mask"] = mask.new_ones(mask.shape[0], tokens + mask.shape[1])
        inputs["attention_mask"][:, tokens:] = mask
    return inputs


def cache_argument(model: Any) -> str:
    """Name of the argument of a model of transformers that takes keys and values; 5.24 has renamed it."""
    backbone = getattr(model, model.base_model_prefix, model)  # which a classifier hands its other arguments
    names = {name for part in (model, backbone) for name in inspect.signature(part.forward).parameters}
    return "cache" if "cache" in names else "past_key_values"


def cache_shape(loaded: Loaded) -> tuple[int, int, int]:
    """(layers, heads of keys, width of a head) of a model's key-value cache.

    Raises:
        ZoplatError: it takes no cache, or its layers differ.
    """
    keys, name = [key for key, _ in _cached(loaded, 2)], type(loaded.model).__name__
    if not keys:
        raise ZoplatError(f"--tune prefix: {name} takes no keys from outside. Use --tune prompt.")
    if len({tuple(key.shape) for key in keys}) > 1:
        raise ZoplatError(f"--tune prefix: the layers of {name} keep keys of different sizes. Use --tune prompt.")
    return len(keys), int(keys[0].shape[1]), int(keys[0].shape[3])


def set_start(model: Any, loaded: Loaded, tune: Tuning) -> None:
    """Initialise the virtual tokens with the embeddings, or the keys and values, of `TEXT`."""
    import torch

    encoder = model.prompt_encoder[model.active_adapter].embedding
    with torch.inference_mode():
        if tune.name == "prompt":
            start = model.word_embeddings(_text_ids(loaded, tune.tokens))
        else:
            pairs = [half for pair in _cached(loaded, tune.tokens) for half in pair]
            start = torch.stack(pairs, dim=1)[0].permute(2, 0, 1, 3)  # (tokens, 2 · layers, heads, width)
    with torch.no_grad():
        encoder.weight.copy_(start.reshape(encoder.weight.shape))


def _text_ids(loaded: Loaded, tokens: int) -> Any:
    """So many token ids of `TEXT`, (1, tokens)."""
    import torch

    ids = loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return torch.tensor([(ids * tokens)[:tokens]])


def _cached(loaded: Loaded, tokens: int) -> list[tuple[Any, Any]]:
    """Keys and values of each layer, (1, heads, tokens, width), after a forward pass on `TEXT`."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    ids, cache = _text_ids(loaded, tokens), DynamicCache()
    backbone = getattr(loaded.model, loaded.model.base_model_prefix, loaded.model)
    given = cache_argument(backbone)
    inputs: dict[str, Any] = {"input_ids": ids, given: cache, "use_cache": True}
    if loaded.head == "seq2seq":
        start = torch.full_like(ids[:, :1], loaded.model.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], dim=1)
        inputs[given] = EncoderDecoderCache(cache, DynamicCache())
    try:
        with torch.inference_mode():
            backbone(**inputs)
    except TypeError:
        return []
    return [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]
