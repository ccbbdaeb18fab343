"""Planned peaks against traced ones: the steps of real sessions on small models of eight families, on the processor.

    python tests/plan/grid.py

Both numbers are bytes of live tensors at the highest moment of a step. The planned one comes from shapes alone; the
other from the same step on real weights, each operation's results counted while they live. It prints one line for each
combination and the errors over all of them.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig
from zoplat.planning.memory import Longest, Rehearsals
from zoplat.training.objective import Objective
from zoplat.training.profiler import Profiler
from zoplat.training.setup import spec_of
from zoplat.training.step import Learner

WIDTH, LAYERS, HEADS, INNER, VOCABULARY = 128, 3, 4, 320, 2000
SIZES = {
    "opt": {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": INNER, "num_hidden_layers": LAYERS},
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "bos_token_id": 1, "eos_token_id": 2},
    "bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
    **{
        family: {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
        for family in ("llama", "gpt_neox", "phi")
    },
    **{
        family: {
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": 2,
        }
        for family in ("qwen2", "mistral")
    },
}
"""Type of a model → the sizes of a small one."""
METHODS = (
    ("mezo", "full", "float32"),
    ("mezo", "full", "bfloat16"),
    ("lozo", "full", "float32"),
    ("hizoo", "full", "float32"),
    ("mezo", "lora", "float32"),
    ("adamw", "full", "float32"),
    ("adamw", "lora", "float32"),
)
"""(estimator, tuning, dtype)."""
SHAPES = ((2, 16), (16, 64))
"""(rows, tokens) of a batch."""


class Line(NamedTuple):
    """One combination: what was planned and what was traced, in bytes."""

    name: str
    planned: int
    traced: int

    @property
    def error(self) -> float:
        """Relative; negative where less was planned than was taken."""
        return self.planned / self.traced - 1


def lines(
    folder: Path, families: tuple[str, ...] = tuple(SIZES), shapes: Any = SHAPES, methods: Any = METHODS
) -> Iterator[Line]:
    """The grid."""
    for family, shape, (estimator, tune, dtype) in product(families, shapes, methods):
        place = saved(family, folder)
        rows, tokens = shape
        flags = {"estimator": estimator, "tune": tune, "dtype": dtype, "model": str(place), "device": "cpu"}
        config = resolve({**flags, "task": "sst2", "batch_size": rows, "steps": 10})
        planned = Rehearsals(tokens=tokens).planned(config)
        name = f"{family} {estimator} {tune} {dtype} {rows}×{tokens}"
        yield Line(name, planned.training, traced(config, tokens, planned.facts["strategy"]))


def saved(family: str, folder: Path) -> Path:
    """A folder with the configuration of a small model."""
    import transformers

    names = {"num_attention_heads": HEADS} if "n_head" not in SIZES[family] else {}
    config = transformers.AutoConfig.for_model(family, vocab_size=VOCABULARY, **SIZES[family], **names)
    config.architectures = [transformers.AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.save_pretrained(folder / family)
    return folder / family


def traced(config: RunConfig, tokens: int, strategy: str) -> int:
    """The peak of two steps on real weights."""
    from zoplat_devices.pytorch.rehearsal.allocations import Allocations
    from zoplat_devices.pytorch.session import PyTorchSession

    empty = config.device.rehearse(spec_of(config))
    assert empty is not None
    rows = empty.blank(config.batch_size, tokens)
    del empty
    gc.collect()
    others = {
        id(tensor): tensor for tensor in _tensors_alive()
    }  # of whoever else is in this process; held, so not reused
    session = PyTorchSession(config.device, spec_of(config), load=random_weights)
    learner = Learner(config, session, Objective(), strategy=strategy)
    trace = Allocations("cpu", 0)
    gc.collect()
    for tensor in _tensors_alive():
        if id(tensor) not in others:
            trace.enter(tensor, "before")
    with trace:
        for _ in range(2):
            learner.advance(Longest(rows), Profiler(session.memory, session.reset_peak))
    return trace.peak


def _tensors_alive() -> list[Any]:
    """All tensors of the host."""
    import torch

    found = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return [tensor for tensor in found if tensor.device.type == "cpu"]


def random_weights(model: str, dtype: Any, *_: Any) -> Any:
    """In place of loading: a model of a configuration with random weights."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    from zoplat_devices.pytorch.loaded import Loaded

    words = ["<s>", "</s>", "<unk>", "It", "was", "good", "bad", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    config = transformers.AutoConfig.from_pretrained(model)
    with torch.random.fork_rng():
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype("causal"))
    return Loaded(network.eval().requires_grad_(False), fast, model, None)


def main() -> None:
    """Print the grid."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for line in lines(Path(folder)):
            found.append(line)
            print(f"{line.name:45} {line.planned:>12,} {line.traced:>12,} {line.error:+8.2%}", flush=True)
    errors = sorted(abs(line.error) for line in found)
    print(f"{len(found)} combinations: median {median(errors):.2%}, worst {errors[-1]:.2%}")
    print(f"most under: {min(line.error for line in found):+.2%}")


if __name__ == "__main__":
    sys.exit(main())
