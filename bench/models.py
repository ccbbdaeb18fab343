"""Models with the shapes of published ones and random weights, created on the device, and sessions on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as kinds

from bench.cases import Setup, Shape
from zoplat import Example, ModelSpec, Row
from zoplat.core.model_spec import Tuning
from zoplat.registry import catalogue
from zoplat.training.batches import Batches
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.models import load
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.session import PyTorchSession
from zoplat_devices.text.encoding import Tokens


def opt(width: int, layers: int, heads: int, **more: Any) -> Any:
    """A configuration of OPT without dropout, so that training mode computes the same as evaluation mode."""
    sizes = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 4 * width, "num_hidden_layers": layers}
    return transformers.OPTConfig(**sizes, num_attention_heads=heads, dropout=0.0, **more)


SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": partial(opt, 16, 2, 2, vocab_size=64, max_position_embeddings=64),
    "opt-125m": partial(opt, 768, 12, 12),
    "opt-1.3b": partial(opt, 2048, 24, 32),
    "opt-13b": partial(opt, 5120, 40, 40),
    "llama-7b": transformers.LlamaConfig,
}
OPTIONS = ([3], [4])
"""Token ids of the two options of a row."""


def load_code() -> None:
    """Import the code of the models of `SHAPES`, which transformers does when one is made."""
    with quiet():
        _ = transformers.OPTForCausalLM, transformers.LlamaForCausalLM, transformers.PreTrainedTokenizerFast


def loader(model: str, kind: str) -> Callable[..., Loaded]:
    """The loader of a model: random weights on the device for one of `SHAPES`, its files for any other."""
    return partial(_random, kind) if model in SHAPES else load


def source(model: str) -> str:
    """What `zoplat run --model` takes for a model of the table."""
    return f"packaged:{model}" if model == "smollm2-135m" else model


def saved(model: str, folder: Path) -> Path:
    """A checkpoint folder with a model of `SHAPES` in float32."""
    loaded = _random("cpu", model, torch.float32, print, "causal")
    with quiet():
        loaded.model.save_pretrained(folder / model)
    loaded.tokenizer.save_pretrained(folder / model)
    return folder / model


def opened(setup: Setup, kind: str) -> PyTorchSession:
    """A PyTorch session of zoplat on the device registered as `kind`."""
    device = replace(catalogue().entry("device", kind).value, **setup.device)
    spec = ModelSpec(source(setup.model), Tuning(setup.tune), setup.dtype, 0)
    return PyTorchSession(device, spec, loader(setup.model, kind))


def batch(vocabulary: int, shape: Shape) -> list[Row]:
    """A batch of this shape, (rows, tokens), with two single-token options per row."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, min(vocabulary, 20000), shape, generator=generator).tolist()
    example = Example("", (" terrible", " great"), 1)
    return [Row(example, shape[1], Tokens([tokens], [*OPTIONS])) for tokens in ids]


class SameBatch(Batches):
    """The same batch at every step."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows, len(rows), 0)

    def at(self, step: int) -> list[Row]:
        return [*self.rows]


def _random(kind: str, model: str, dtype: Any, notice: Any, head: Any, *_: Any) -> Loaded:
    """A model in the form that `load` returns; `dtype` may be a function of its head."""
    config = SHAPES[model]()
    width = dtype("causal") if callable(dtype) else dtype
    with quiet(), torch.random.fork_rng(), torch.device(kind):
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=width)
    return Loaded(network.eval().requires_grad_(False), _tokenizer(), model, None)


def _tokenizer() -> Any:
    """A tokenizer with enough words for the trial run by which a session chooses its strategy."""
    words = ["<s>", "</s>", "<unk>", "It", "was", "good", "bad", "."]
    tokenizer = Tokenizer(kinds.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
