"""A small model and rows in files, and runs of it by several processes that torchrun starts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = "a dull film was it great terrible joy of plain fun bore and the or movie all not . :"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "model", a Llama of some kilobytes, and "rows"."""
    torch = pytest.importorskip("torch")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("small")
    vocabulary = dict.fromkeys(["<s>", "</s>", "<unk>", *WORDS.split()])
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "rows").mkdir()
    words_of = WORDS.split()
    for k, split in enumerate(("train", "dev", "test")):
        rows = [
            {"sentence": f"{words_of[i]} {words_of[k]} film was {('dull', 'great')[i % 2]}", "label": i % 2}
            for i in range(16)
        ]
        (folder / "rows" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def command(small: Path) -> Callable[..., list[str]]:
    """A command line of `zoplat run` on the small model."""

    def make(out: str, *flags: str) -> list[str]:
        fixed = ["--model", str(small / "model"), "--task", "sst2", "--data", str(small / "rows"), "--dtype", "float32"]
        fixed += ["--device", "cpu", "--batch-size", "4", "--lr", "1e-3", "--out", out, "--quiet"]
        return ["run", *fixed, *flags]

    return make
