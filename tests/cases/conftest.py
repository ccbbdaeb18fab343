"""Small random models in the form of checkpoints, and rows about things that are good or bad."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD, BAD = ("bright", "solid", "charming", "lovely"), ("noisy", "rude", "flimsy", "dull")
THINGS = ("kettle", "film", "chair", "soup")
FILLER = "I wrote this down on a day in May. "

Model = Callable[..., Path]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Writes a checkpoint: `kind` of its architecture, `change` for what is done to the model before it is saved."""
    pytest.importorskip("torch")

    def make(
        kind: str = "llama", change: Callable[[Any, Any], None] | None = None, seed: int = 0, **config: Any
    ) -> Path:
        import torch

        folder = tmp_path_factory.mktemp(kind)
        tokenizer = _letters()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _model(kind, len(tokenizer), config)
            for parameter in model.parameters():  # large enough that scores differ
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.2)
        if change:
            with torch.no_grad():
                change(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def rows() -> Callable[..., Path]:
    """Writes a folder of rows for the task sentiment; with `varied`, some are several times as long as others."""

    def write(folder: Path, varied: bool = False, seed: int = 0, **sizes: int) -> Path:
        folder.mkdir(exist_ok=True)
        draw = random.Random(seed)
        for split, size in ({"train": 16, "dev": 8, "test": 8} | sizes).items():
            lines = []
            for number in range(size):
                label = number % 2
                words = [draw.choice((BAD, GOOD)[label]) for _ in range(2)]
                start = FILLER * draw.choice((0, 0, 3)) if varied else ""
                sentence = (
                    f"{start}The {draw.choice(THINGS)} number {draw.randrange(10**5)} is {words[0]} and {words[1]}."
                )
                lines.append(json.dumps({"sentence": sentence, "label": label}))
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return write


def _letters() -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def _model(kind: str, vocabulary: int, config: dict[str, Any]) -> Any:
    import transformers as t

    if kind == "rwkv":
        return t.RwkvForCausalLM(
            t.RwkvConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, context_length=512, **config)
        )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}
    made = t.LlamaConfig(vocab_size=vocabulary, pad_token_id=0, **{**sizes, **config})
    return (t.LlamaForSequenceClassification if kind == "classifier" else t.LlamaForCausalLM)(made)
