"""Virtual tokens: the prefix and the prompt of peft, where they start and how a model reads past them.

peft's own forward passes drop the positions of a prompt's tokens, which matter where rows are padded on the left, and
take the second output of an encoder for its first where hidden states are asked for. So the arguments are made here;
the numbers are those of peft for a sequence on its own.
"""

from __future__ import annotations

from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch.models import Loaded

TEXT = "Read what follows with care and say in a word or two what is true of it, and why."
"""What virtual tokens say before they are trained, over again where they are more."""


def kind(model: Any) -> str:
    """Of the virtual tokens that a model's adapter has: "prefix", "prompt", or "" where it has none."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return ""
    return "prefix" if config.peft_type.value == "PREFIX_TUNING" else "prompt"


def count(model: Any) -> int:
    """Virtual tokens that stand before each text."""
    return int(model.active_peft_config.num_virtual_tokens) if kind(model) else 0


def run(model: Any, inputs: dict[str, Any], owner: Any = None) -> Any:
    """The forward pass of a model on padded token ids, virtual tokens first.

    Args:
        model: of transformers, inside an adapter of peft or not.
        inputs: of the model, without virtual tokens.
        owner: for each sequence of a decoder, the row of the encoder's that it belongs to; None for its own.
    """
    own = kind(model)
    if owner is not None:
        return _decoded(model, inputs, owner)
    if not own:
        return model(**inputs)
    return model.get_base_model()(**(prompted if own == "prompt" else prefixed)(model, inputs))


def _decoded(model: Any, inputs: dict[str, Any], owner: Any) -> Any:
    """A seq2seq model whose encoder reads each row once, for several sequences of its decoder."""
    from transformers.modeling_outputs import BaseModelOutput

    own = kind(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    reads: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    reads = prompted(model, reads) if own == "prompt" else reads
    hidden = inner.get_encoder()(**reads).last_hidden_state
    more: dict[str, Any] = {"past_key_values": model.get_prompt(len(owner))} if own == "prefix" else {}
    if "attention_mask" in reads:
        more["attention_mask"] = reads["attention_mask"][owner]
    return inner(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden[owner]),
        decoder_input_ids=inputs["decoder_input_ids"],
        use_cache=False,
        **more,
    )


def prompted(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the embeddings of a prompt and of the tokens in the place of ids."""
    import torch

    ids, tokens = inputs["input_ids"], count(model)
    places = torch.arange(tokens, device=ids.device).expand(ids.shape[0], tokens)
    words = model.word_embeddings(ids)
    virtual = model.prompt_encoder[model.active_adapter].embedding(places).to(words.dtype)
    made = {name: value for name, value in inputs.items() if name != "input_ids"}
    made["inputs_embeds"] = torch.cat([virtual, words], dim=1)
    if "position_ids" in inputs:
        made["position_ids"] = torch.cat([places, inputs["position_ids"] + tokens], dim=1)
    return _seen(made, tokens)


def prefixed(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the keys and values of a prefix, which a seq2seq model has before its decoder's."""
    tokens = count(model)
    made = {**inputs, "past_key_values": model.get_prompt(inputs["input_ids"].shape[0])}
    if "position_ids" in inputs:
        made["position_ids"] = inputs["position_ids"] + tokens
    return made if "decoder_input_ids" in inputs else _seen(made, tokens)


def _seen(inputs: dict[str, Any], tokens: int) -> dict[str, Any]:
    """With a mask, if there is one, that shows the virtual tokens too."""
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"]
        inputs["attention_mask"] = mask.new_ones(mask.shape[0], tokens + mask.shape[1])
        inputs["attention_mask"][:, tokens:] = mask
    return inputs


def shapes(loaded: Loaded) -> tuple[int, int, int]:
    """(layers, heads of keys, width of a head) of the keys and values that a model keeps.

    Raises:
        ZoplatError: it keeps none, or its layers differ.
    """
    keys, name = [key for key, _ in _kept(loaded, 2)], type(loaded.model).__name__
    if not keys:
        raise ZoplatError(f"--tune prefix: {name} takes no keys from outside. Use --tune prompt.")
    if len({tuple(key.shape) for key in keys}) > 1:
        raise ZoplatError(f"--tune prefix: the layers of {name} keep keys of different sizes. Use --tune prompt.")
    return len(keys), int(keys[0].shape[1]), int(keys[0].shape[3])


def set_start(model: Any, loaded: Loaded, tune: Tuning) -> None:
    """Let the virtual tokens begin as those of a real text."""
    import torch

    encoder = model.prompt_encoder[model.active_adapter].embedding
    with torch.inference_mode():
        if tune.name == "prompt":
            start = model.word_embeddings(_text(loaded, tune.tokens))
        else:
            pairs = [half for pair in _kept(loaded, tune.tokens) for half in pair]
            start = torch.stack(pairs, dim=1)[0].permute(2, 0, 1, 3)  # (tokens, 2 · layers, heads, width)
    with torch.no_grad():
        encoder.weight.copy_(start.reshape(encoder.weight.shape))


def _text(loaded: Loaded, tokens: int) -> Any:
    import torch

    ids = loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return torch.tensor([(ids * tokens)[:tokens]])


def _kept(loaded: Loaded, tokens: int) -> list[tuple[Any, Any]]:
    """Keys and values of each layer, (1, heads, tokens, width), where a model reads a real text."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    ids, cache = _text(loaded, tokens), DynamicCache()
    inputs: dict[str, Any] = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
    if loaded.head == "seq2seq":
        start = torch.full_like(ids[:, :1], loaded.model.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], dim=1)
        inputs["past_key_values"] = EncoderDecoderCache(cache, DynamicCache())
    backbone = getattr(loaded.model, loaded.model.base_model_prefix, loaded.model)
    try:
        with torch.inference_mode():
            backbone(**inputs)
    except TypeError:
        return []
    return [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]
