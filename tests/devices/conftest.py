"""Checkpoint folders of a few kilobytes: a handful of architectures, two tokenizers, random weights."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TEXT = (
    "the film was great and the food was terrible but we would go again . It was a good day for a bad movie , "
    "yes or no ? Does this mean that it is true ? Yes or No ? awful wonderful boring fine nice poor plot actor"
)
PLACES = 64


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary working folder and cache, and one thread; the kernels are compiled beforehand."""
    import torch

    from zoplat_devices.kernels import native

    native.library()
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint folder: `kind` as in `_model`; with `words`, one token a word, else one for a few letters."""
    pytest.importorskip("torch")

    @cache
    def make(kind: str = "llama", words: bool = True, tied: bool = True, dtype: str = "float32") -> Path:
        import torch

        folder = tmp_path_factory.mktemp(f"{kind}-{'words' if words else 'letters'}")
        tokenizer = TOKENIZERS[kind]() if kind in TOKENIZERS else _words() if words else _letters()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model = _model(kind, len(tokenizer), tied)
            for parameter in model.parameters():  # large enough that scores differ
                torch.nn.init.normal_(parameter, std=0.3)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def _model(kind: str, vocabulary: int, tied: bool) -> Any:
    import transformers as t

    common: dict[str, Any] = {"vocab_size": vocabulary, "tie_word_embeddings": tied, "bos_token_id": 0}
    common |= {"eos_token_id": 1, "pad_token_id": 1}
    if kind in ("gemma", "qwen2"):
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"num_key_value_heads": 1, "max_position_embeddings": PLACES}
        if kind == "gemma":
            return t.GemmaForCausalLM(t.GemmaConfig(**common, **sizes, head_dim=8))
        return t.Qwen2ForCausalLM(t.Qwen2Config(**common, **sizes))
    if kind in ("llama", "vicuna"):
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = t.LlamaConfig(
            **common, **sizes, num_key_value_heads=1, max_position_embeddings=PLACES, attention_dropout=0.5
        )
        return t.LlamaForCausalLM(config)
    if kind == "opt":
        sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2}
        config = t.OPTConfig(
            **common, **sizes, num_attention_heads=2, max_position_embeddings=PLACES, dropout=0.5, layerdrop=0.5
        )
        return t.OPTForCausalLM(config)
    if kind in DECODERS:
        sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "max_position_embeddings": PLACES}
        name, more = DECODERS[kind]
        config = getattr(t, f"{name}Config")(**common, **sizes, **more)
        return getattr(t, f"{name.removesuffix('Text')}ForCausalLM")(config)
    if kind in ("bert", "roberta"):
        name = "Bert" if kind == "bert" else "Roberta"
        more = {"pad_token_id": 0} if kind == "bert" else {"max_position_embeddings": PLACES + 2, "type_vocab_size": 1}
        sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = getattr(t, f"{name}Config")(**{**common, **sizes, "max_position_embeddings": PLACES, **more})
        return getattr(t, f"{name}ForMaskedLM")(config)
    if kind == "t5":
        config = t.T5Config(
            vocab_size=vocabulary, d_model=32, d_kv=6, d_ff=40, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        return t.T5ForConditionalGeneration(config)
    config = t.GPT2Config(**common, n_embd=16, n_layer=2, n_head=2, n_positions=PLACES)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.5
    return t.GPT2LMHeadModel(config)


DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("Mistral", {}),
    "phi": ("Phi", {}),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "gemma2": ("Gemma2", {"head_dim": 12}),
    "gemma3": ("Gemma3Text", {"head_dim": 12, "layer_types": ["sliding_attention", "full_attention"]}),
}
"""Kind → family of transformers, and settings of its own; `Gemma3TextConfig` belongs to `Gemma3ForCausalLM`."""


def _words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = dict.fromkeys(["<s>", "</s>", "<unk>", *TEXT.split()])
    model = models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer)


def _letters() -> Any:
    return _wrapped(_bytes(300, ["<s>", "</s>", "<unk>"]))


def _bytes(size: int, special: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def _wrapped(tokenizer: Any) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


def _roberta() -> Any:
    """Words with their leading blanks, and a mask token that includes the blank before it."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = _bytes(700, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # which trims offsets
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    named: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    named["mask_token"] = AddedToken("<mask>", lstrip=True, special=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def _bert() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.split()])
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


def _t5() -> Any:
    """Pieces of words that begin where a blank was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [word for word in TEXT.split() if word != "wonderful"]
    pieces = dict.fromkeys(["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words), "▁", *sorted({*TEXT})])
    tokenizer = Tokenizer(models.Unigram([(piece, -i / 50) for i, piece in enumerate(pieces)], 2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def _vicuna() -> Any:
    tokenizer = _words()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %} USER: {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {"roberta": _roberta, "bert": _bert, "t5": _t5, "vicuna": _vicuna}
